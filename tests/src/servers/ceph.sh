# Starts Ceph's S3 gateway over one disk in memory. Arguments: a directory, the ports of the gateway and of the monitor,
# the key and the secret of the only user, the minimum size of a part. The daemons do not authenticate each other, and
# listen on this machine only.
set -eu
cd "$1"
mkdir mon osd gateway
cat > ceph.conf <<CONF
[global]
fsid = 6a1f0b9e-53a0-4f5d-9a59-0c7d1f3e2b11
mon_initial_members = a
mon_host = [v2:127.0.0.1:$3/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_ipv6 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# The gateway requires encryption by default, which needs authentication.
ms_mon_client_mode = crc
run_dir = $1
crash_dir = $1
admin_socket =
pid_file =
log_file = $1/\$name.log
mon_cluster_log_file = $1/cluster.log
mon_data = $1/mon
osd_data = $1/osd
rgw_data = $1/gateway
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
# The monitor would refuse to start on a disk that is nearly full.
mon_data_avail_crit = 0
mon_data_avail_warn = 0
rgw_frontends = beast endpoint=127.0.0.1:$2
rgw_multipart_min_part_size = $6
CONF
export CEPH_CONF="$1/ceph.conf"
monmaptool --create --fsid 6a1f0b9e-53a0-4f5d-9a59-0c7d1f3e2b11 --addv a "[v2:127.0.0.1:$3]" monmap
ceph-mon --mkfs -i a --monmap monmap
ceph-mon -i a -f &
# The monitor and the disk must use the same id, or the disk never joins.
read -r disk < /proc/sys/kernel/random/uuid
ceph osd new "$disk"
ceph-osd -i 0 --mkfs --osd-uuid "$disk"
ceph-osd -i 0 -f &
radosgw-admin user create --uid user --display-name user --access-key "$4" --secret-key "$5"
exec radosgw -n client.gateway -f
