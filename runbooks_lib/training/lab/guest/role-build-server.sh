# The role of a build server: a volume group with free space on the second disk, the database on a small volume of its
# own, PostgreSQL with checksums under systemd, and the service whose queue lives in that database.
# $FILESYSTEM is ext4 or xfs.
disk=/dev/disk/by-id/virtio-data
pvcreate --quiet "$disk"
vgcreate --quiet data "$disk"
lvcreate --quiet --yes --name db --size 640M data
lvcreate --quiet --yes --name scratch --size 384M data
case $FILESYSTEM in
    # Few inodes, so that running out of them takes seconds. An error makes it read-only, as Debian's installer sets it.
    ext4) mkfs.ext4 -q -N 16384 -e remount-ro /dev/data/db ;;
    xfs) mkfs.xfs -q /dev/data/db ;;
esac
mkfs.ext4 -q /dev/data/scratch
mkdir -p /srv/db /srv/scratch
echo "/dev/mapper/data-db /srv/db $FILESYSTEM defaults,noatime,nofail 0 2" >> /etc/fstab
echo "/dev/mapper/data-scratch /srv/scratch ext4 defaults,noatime,nofail 0 2" >> /etc/fstab
mount /srv/db
mount /srv/scratch

# A server must never start on the empty directory below a missing mount.
mkdir -p /etc/systemd/system/postgresql@15-main.service.d
printf '[Unit]\nRequiresMountsFor=/srv/db\n' > /etc/systemd/system/postgresql@15-main.service.d/mount.conf
systemctl daemon-reload

install -d -o postgres -g postgres -m 0755 /srv/db/postgresql /srv/db/postgresql/15
pg_createcluster 15 main --datadir /srv/db/postgresql/15/main --start-conf auto -- --data-checksums
conf=/etc/postgresql/15/main
cat > $conf/conf.d/lab.conf <<'END'
listen_addresses = '*'
shared_buffers = 64MB
max_connections = 60
min_wal_size = 32MB
max_wal_size = 64MB
wal_level = logical
archive_mode = on
archive_command = '/bin/true'
jit = off
log_min_duration_statement = 5s
END
cat >> $conf/pg_hba.conf <<'END'
host all all 10.0.2.0/24 scram-sha-256
host all all 10.77.0.0/24 scram-sha-256
host replication all 10.77.0.0/24 scram-sha-256
END
pg_ctlcluster 15 main start
runuser -u postgres -- psql --quiet --set ON_ERROR_STOP=1 <<'END'
create role buildserver login;
create role replicator login replication;
create database buildserver owner buildserver;
\connect buildserver
set role buildserver;
\i /usr/local/lib/lab/build_server.sql
END
install -d -o buildserver -g buildserver -m 0755 /srv/db/build-server-logs
# A pooler in front, as clients that must not see a restart have it. Each machine brings its own passwords.
cat > /etc/pgbouncer/pgbouncer.ini <<'END'
[databases]
* = host=127.0.0.1 port=5432
[pgbouncer]
listen_addr = *
listen_port = 6432
unix_socket_dir = /var/run/postgresql
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
admin_users = postgres
pool_mode = transaction
logfile = /var/log/postgresql/pgbouncer.log
pidfile = /var/run/postgresql/pgbouncer.pid
END
install -o postgres -g postgres -m 0640 /dev/null /etc/pgbouncer/userlist.txt
systemctl --quiet enable postgresql.service build-server.service pgbouncer.service prometheus-node-exporter.service
systemctl start build-server.service
# One whole start, so that the first one a person waits for finds everything in place.
i=0
until systemctl --quiet is-active build-server.service && python3 -c \
    'import urllib.request as u; u.urlopen("http://127.0.0.1:8111/app/rest/server", timeout=5)' 2> /dev/null; do
    i=$((i + 1))
    [ $i -lt 60 ] || { systemctl status build-server.service; exit 1; }
    sleep 1
done
systemctl stop build-server.service
pg_ctlcluster 15 main stop --mode fast
