"""squid, as a process of its own on the loopback: an HTTP proxy that knows CONNECT."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.support import free_port, wait_for

USER, PASSWORD = "me", "s3:cr@t/#"
FORBIDDEN = "forbidden.example"
HELPERS = ("/usr/lib/squid", "/usr/lib64/squid", "/usr/libexec/squid", "/usr/local/libexec/squid")

CONFIG = """
http_port 127.0.0.1:{open} name=open
http_port 127.0.0.1:{known} name=known
auth_param basic program {helper} {directory}/users
auth_param basic children 1 startup=1 idle=1
acl forbidden dstdomain {forbidden}
acl without_asking myportname open
acl who_is_known proxy_auth REQUIRED
http_access deny forbidden
http_access allow CONNECT without_asking
http_access allow CONNECT who_is_known
http_access deny all
visible_hostname squid.test
dns_nameservers 127.0.0.1
pid_filename none
cache deny all
cache_mem 0
memory_cache_shared off
access_log none
cache_log /dev/null
netdb_filename none
pinger_enable off
coredump_dir {directory}
shutdown_lifetime 0 seconds
"""


@dataclass
class Squid:
    """A running one: its port for everybody, and the one for those who are known."""

    open: int
    known: int


@contextlib.contextmanager
def running() -> Iterator[Squid]:
    squid = shutil.which("squid", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    helper = shutil.which("basic_ncsa_auth", path=":".join(HELPERS))
    if squid is None or helper is None:
        pytest.fail("the tests need squid: apt-get install squid")
    with tempfile.TemporaryDirectory(prefix="portico-squid-") as name, contextlib.ExitStack() as closing:
        directory = pathlib.Path(name)
        directory.chmod(0o755)  # as root, squid becomes somebody else
        ports = [free_port(), free_port()]
        text = CONFIG.format(open=ports[0], known=ports[1], helper=helper, directory=directory, forbidden=FORBIDDEN)
        (directory / "conf").write_text(text)
        shadow = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True)
        (directory / "users").write_text(f"{USER}:{shadow.stdout}")
        said = closing.enter_context((directory / "said").open("w"))
        # the service's name keeps its shared memory apart from that of any other squid
        command = [squid, "-N", "-d", "1", "-f", str(directory / "conf"), "-n", f"portico{os.getpid()}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            for port in ports:
                wait_for(process, port, directory / "said")
            yield Squid(*ports)
        finally:
            process.terminate()
            process.wait()
