#!/bin/sh
# What the tests need and pip does not install: a C compiler and the real peers that are no Python packages. Installed
# where apt-get and the right to use it are there, named where they are not.
set -eu

python=${PYTHON:-python3}
missing=""
has() { command -v "$1" >/dev/null; }
has curl || missing="$missing curl"
has openssl || missing="$missing openssl"
has npm || missing="$missing nodejs npm"
has chromium || has chromium-browser || has google-chrome || missing="$missing chromium"
has squid || [ -x /usr/sbin/squid ] || missing="$missing squid"
has nginx || [ -x /usr/sbin/nginx ] || missing="$missing nginx-light libnginx-mod-stream"
has haproxy || [ -x /usr/sbin/haproxy ] || missing="$missing haproxy"
has cc || missing="$missing gcc libc6-dev"
header='import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
"$python" -c "$header" || missing="$missing python3-dev"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
[ -n "$missing" ] || exit 0

become=""
[ "$(id -u)" = 0 ] || become="sudo -n"
if ! has apt-get || ! $become true 2>/dev/null; then
    echo "The tests need these Debian packages, or what your system has for them:$missing" >&2
    exit 1
fi
echo "Installing what the tests need:$missing"
# shellcheck disable=SC2086  # lists of words
$become apt-get update -qq && $become env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
for service in squid nginx haproxy; do
    case "$missing" in *$service*)
        # its package starts a service; the tests run their own
        $become systemctl disable --now "$service" >/dev/null 2>&1 || true ;;
    esac
done
