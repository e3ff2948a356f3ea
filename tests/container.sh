# Makes a root file system as the Containerfile describes it, and becomes its process 1. Runs in new
# mount, pid and network namespaces. Usage: container.sh ROOT VOLUME PATHS UID COMMAND…
# PATHS are the folders of Python and Daybook, one colon between two; all but the volume is read-only.
set -eu
root=$1 volume=$2 paths=/usr:/bin:/lib:/lib64:/etc:$3 uid=$4
shift 4
# The container's user must be able to enter the folders above PATHS, whatever this user's umask is.
umask 022
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
IFS=:
for path in $paths; do
    [ -e "$path" ] || continue
    mkdir -p "$root$path"
    mount --rbind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done
unset IFS
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/data"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$volume" "$root/data"
mount -o remount,ro "$root"
ip link set lo up
cd /
exec chroot "$root" setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs --bounding-set -all "$@"
