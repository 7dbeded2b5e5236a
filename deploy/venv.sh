#!/bin/sh
# Usage: deploy/venv.sh NAME [FOLDER]
#
# Installs what requirements/NAME.lock pins, by hash, into the virtual environment FOLDER (.venv). It does nothing if
# that is installed already. It is plain sh, because it runs before any Python of ours is there, and perhaps with a
# Python that is too old for everything else here.
set -eu
cd "$(dirname "$0")/.."
name=$1
python=${PYTHON:-python3}
venv=${2:-.venv}

die() {
    printf 'make: %s\n' "$*" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || die "no '$python' here: install Python 3.11 or newer, or set PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "$("$python" -V 2>&1) is too old: Python 3.11 or newer is needed; set PYTHON, as in: make PYTHON=python3.12 up"

# A virtual environment belongs to its interpreter and its folder: if either changes, it is made anew.
identity=$("$python" -c 'import os, sys; print(*sys.version_info[:3], os.path.realpath(sys.base_prefix), os.getcwd())')
stamp() { # name: the content of FOLDER/NAME.stamp once that lock is installed
    printf '%s\n' "$identity"
    cat "requirements/$1.lock"
}
# The locks that contain everything that this one has.
case $name in
    service) enough="service kafka-server dev" ;;
    kafka-server) enough="kafka-server dev" ;;
    *) enough=$name ;;
esac
installed() {
    for one in $enough; do
        [ -f "$venv/$one.stamp" ] && stamp "$one" | cmp -s - "$venv/$one.stamp" && "$venv/bin/python" -c '' 2>/dev/null &&
            return 0
    done
    return 1
}

installed && exit 0
[ ! -L "$venv" ] || die "$venv is a link, and may point to a folder of somebody else: remove it"
# If two `make up` run at once in a fresh checkout, the second waits for the first. The lock is on a file that exists
# anyway, and it ends with this process. (macOS has no flock command, and goes on without a lock.)
exec 9<requirements/service.lock
if command -v flock >/dev/null 2>&1; then flock 9; fi
installed && exit 0

if ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then # Debian and Ubuntu keep it in a package of its own
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    command -v apt-get >/dev/null 2>&1 || die "$python has no ensurepip, so it cannot make a virtual environment"
    [ "$(id -u)" = 0 ] || die "$package is missing; install it with: sudo apt-get install $package"
    echo "make: installing $package" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y --no-install-recommends "$package" >/dev/null 2>&1 || {
        apt-get update -qq && apt-get install -qq -y --no-install-recommends "$package" >/dev/null
    } || die "apt-get could not install $package"
fi

echo "make: installing requirements/$name.lock into $venv (a minute or two, once)" >&2
if [ "$(cat "$venv/identity" 2>/dev/null)" != "$identity" ] ||
    ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    "$python" -m venv --clear "$venv"
    printf '%s\n' "$identity" >"$venv/identity"
fi
rm -f "$venv"/*.stamp
# Wheels only, because a source distribution runs its own code and fetches build tools that are not pinned. The one
# exception is forbiddenfruit, which has no wheel (blockbuster needs it, so only the tests do). pip ignores the exception
# if the lock does not name the package.
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --no-deps --require-hashes \
    --only-binary :all: --no-binary forbiddenfruit -r "requirements/$name.lock"
# The command `tcb`, of the folder that one is in: the package itself is not installed here.
printf '#!/bin/sh\nexec "%s/bin/python" -m tornado_celery_bridge "$@"\n' "$(cd "$venv" && pwd)" >"$venv/bin/tcb"
chmod +x "$venv/bin/tcb"
stamp "$name" >"$venv/$name.stamp"
