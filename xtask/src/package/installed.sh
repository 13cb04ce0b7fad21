# The two RPMs $2 and $3, installed, upgraded and removed in a copy of this system over the directory $1.
# Standard output is what happened.
set -e
place=$1
mount -t tmpfs tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$place/root"
cd "$place/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t bpf bpf sys/fs/bpf
mount --bind /dev dev
mount -t tmpfs tmpfs run
mkdir -p run/systemd/system
cp "$2" first.rpm
cp "$3" second.rpm

chroot . sh -e <<'INSIDE'
# Puts a program in front of $1 that writes down how it is called, and then does $2.
watch() {
    mv "$1" "$1.watched"
    printf '#!/bin/sh\necho "  %s $*" >>/calls\n%s\n' "${1##*/}" "$2" >"$1"
    chmod 755 "$1"
}
# Runs rpm, and says which programs its scripts called.
step() {
    echo "$1"
    shift
    : >/calls
    rpm --dbpath /rpm "$@" >&2
    cat /calls
}
is() {
    if eval "$2"; then echo "  $1"; else echo "  not $1"; fi
}

rpm --dbpath /rpm --initdb
watch "$(command -v systemctl)" true
watch "$(command -v systemd-sysusers)" 'exec "$0.watched" "$@"'
# Nobody's, if it is on this machine already.
rm -rf /etc/breakout365 /usr/bin/breakout365
sed -i '/^breakout365/d' /etc/passwd /etc/group

step install --nodeps --install first.rpm
is "as packed" 'rpm --dbpath /rpm --verify --nodeps breakout365 >&2'
is "with users" 'grep -q ^breakout365: /etc/passwd && grep -q ^breakout365-exporter: /etc/passwd'
is "a program" 'breakout365 --version >&2'

echo '# ours' >>/etc/breakout365/config.toml
step upgrade --nodeps --upgrade second.rpm
is "one package" 'test "$(rpm --dbpath /rpm --query breakout365 | wc -l)" = 1'
is "with the configuration as it was" 'tail -n 1 /etc/breakout365/config.toml | grep -qx "# ours"'

watch /usr/bin/breakout365 'exec "$0.watched" "$@"'
step remove --nodeps --erase breakout365
is "gone" '! test -e /usr/bin/breakout365 && ! test -e /usr/lib/systemd/system/breakout365.service'
is "with its configuration put aside" 'grep -qx "# ours" /etc/breakout365/config.toml.rpmsave'
INSIDE
