#!/bin/sh
# Ends the building of the image, inside it: users, network, services. What differs between two machines (name, keys,
# address on the link) is not here but on the seed disk; what differs between the roles is in role-*.sh.
set -eu

useradd --uid 1000 --create-home --shell /bin/bash oncall
echo 'oncall ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/oncall
chmod 0440 /etc/sudoers.d/oncall
passwd --lock root > /dev/null
useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin buildserver

# One image for all: host keys come from the seed disk, so that the operator knows them before the first connection.
rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id
: > /etc/machine-id
printf 'PasswordAuthentication no\nUseDNS no\nHostKey /etc/ssh/ssh_host_ed25519_key\n' > /etc/ssh/sshd_config.d/lab.conf

# qemu's user-mode network always has the same addresses; no DHCP, no waiting for it.
cat > /etc/systemd/network/10-operator.network <<'END'
[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
LinkLocalAddressing=no
IPv6AcceptRA=no
END
systemctl --quiet enable systemd-networkd.service
systemctl --quiet disable systemd-networkd-wait-online.service 2> /dev/null || true
systemctl --quiet mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer logrotate.timer man-db.timer systemd-pstore.service \
    prometheus-node-exporter-apt.timer prometheus-node-exporter-nvme.timer prometheus-node-exporter-mellanox-hca-temp.timer \
    prometheus-node-exporter-ipmitool-sensor.timer prometheus-node-exporter-smartmon.timer getty@tty1.service
systemctl --quiet enable lab-seed.service lab-prepare.service
systemctl --quiet disable pgbouncer.service postgresql.service prometheus-node-exporter.service \
    prometheus-alertmanager.service 2> /dev/null || true

# One alert manager alone, with no peers to look for; a drill or a test starts it.
echo "ARGS='--cluster.listen-address='" > /etc/default/prometheus-alertmanager
# What the host did before anybody looked: sar's files, every ten minutes.
echo 'ENABLED="true"' > /etc/default/sysstat
systemctl --quiet enable sysstat.service

cat > /etc/fstab <<'END'
/dev/vda / ext4 defaults,noatime 0 1
/dev/disk/by-id/virtio-swap none swap nofail,x-systemd.device-timeout=90s 0 0
END

# The journal is kept over a power cut, as on a real host, and small enough to be filled in a drill.
mkdir -p /var/log/journal
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=persistent\nSystemMaxUse=32M\nRateLimitIntervalSec=0\n' > /etc/systemd/journald.conf.d/lab.conf

printf 'vm.swappiness=60\nkernel.panic=5\n' > /etc/sysctl.d/lab.conf
# Roles make their clusters themselves; apart from that, clusters are made as Debian makes them (conf.d and all).
sed 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' /usr/share/postgresql-common/createcluster.conf \
    > /etc/postgresql-common/createcluster.conf

# Only what this hardware needs to find its root disk: unpacking a big initrd takes seconds under emulation.
sed -i 's/^MODULES=.*/MODULES=list/' /etc/initramfs-tools/initramfs.conf
printf 'virtio_pci\nvirtio_blk\n' >> /etc/initramfs-tools/modules
update-initramfs -u > /dev/null 2>&1

# The image is no place to install from: it has no way to the network, and says nothing of where it came from.
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /usr/share/doc/* /usr/share/locale/*
