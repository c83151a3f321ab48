# The role of an empty database host: PostgreSQL is installed and has no cluster; a volume is mounted and waits for one.
# $FILESYSTEM is ext4 or xfs.
disk=/dev/disk/by-id/virtio-data
pvcreate --quiet "$disk"
vgcreate --quiet data "$disk"
lvcreate --quiet --yes --name db --size 2G data
case $FILESYSTEM in
    ext4) mkfs.ext4 -q -e remount-ro /dev/data/db ;;
    xfs) mkfs.xfs -q /dev/data/db ;;
esac
mkdir -p /srv/db
echo "/dev/mapper/data-db /srv/db $FILESYSTEM defaults,noatime,nofail 0 2" >> /etc/fstab
mount /srv/db
install -d -o postgres -g postgres -m 0755 /srv/db/postgresql /srv/db/postgresql/15
systemctl --quiet enable postgresql.service prometheus-node-exporter.service
