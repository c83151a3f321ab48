#!/bin/sh
# Runs once, when a role is made out of the image: the seed disk then brings /etc/lab/prepare. The operator reads the
# last line on the serial console and the machine switches itself off.
if sh -eu /etc/lab/prepare > /dev/ttyS0 2>&1; then
    rm -f /etc/lab/prepare
    sync
    echo 'lab: prepared' > /dev/ttyS0
else
    echo "lab: preparing failed with status $?" > /dev/ttyS0
fi
systemctl poweroff
