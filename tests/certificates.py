"""Certificates that vouch for themselves, as files and as contexts."""

from __future__ import annotations

import pathlib
import ssl
import subprocess
from dataclasses import dataclass


def self_signed(
    where: pathlib.Path, name: str, *names: str, options: str = "-nodes"
) -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate for `names`, signed by itself, and its key; in files that are called `name`, as is its subject."""
    cert, key = where / f"{name}.pem", where / f"{name}.key"
    kind = "-newkey ec -pkeyopt ec_paramgen_curve:P-256"
    alt = ",".join(f"{'IP' if each[0].isdigit() else 'DNS'}:{each}" for each in names)
    also = f"-addext subjectAltName={alt}" if alt else ""
    command = f"openssl req -x509 {kind} {options} -subj /CN={name} {also} -keyout {key} -out {cert}"
    made = subprocess.run(command.split(), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return cert, key


@dataclass(frozen=True)
class Tls:
    """A certificate and its key, as files: each alone, and `both` in one."""

    cert: pathlib.Path
    key: pathlib.Path
    both: pathlib.Path

    @classmethod
    def of_localhost(cls, where: pathlib.Path) -> Tls:
        cert, key = self_signed(where, "localhost", "localhost", "127.0.0.1")
        both = where / "both.pem"
        both.write_text(cert.read_text() + key.read_text())
        return cls(cert, key, both)

    def server(self) -> ssl.SSLContext:
        """A server's context with it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        """A client's context that trusts it alone."""
        return ssl.create_default_context(cafile=str(self.cert))
