#!/bin/bash
# Segment participants of a DataLad dataset, with provenance: what ran on what is in the history.
#
# usage: run.sh SUPERDATASET BIDS_URL IMAGE LABEL..
#
# SUPERDATASET   made here if it is not there; BIDS_URL becomes its inputs/raw, results lie in
#                outputs/bids_msseg
# IMAGE          a SIF file, or any URL that `datalad containers-add` takes, such as
#                docker://ghcr.io/owner_to_be_set/bids_msseg:0.1.0
# CALL           how the image is called (default: apptainer run --cleanenv); {img} and {cmd} as in
#                datalad-container
# WORK           folder for intermediate files, which the call mounts (default /tmp, which
#                Apptainer mounts by itself)

set -euo pipefail

[ $# -ge 4 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 64; }
super=$1 url=$2 image=$3
shift 3
# what is a file here is looked for from the superdataset
[ ! -e "$url" ] || url=$(realpath "$url")
[ ! -e "$image" ] || image=$(realpath "$image")

default='apptainer run --cleanenv {img} {cmd}'
call=${CALL:-$default}
if [ ! -e "$super/.datalad" ]; then
  datalad create "$super"
  datalad clone -d "$super" "$url" "$super/inputs/raw"
  (cd "$super" && datalad containers-add bids-msseg --url "$image" --call-fmt "$call")
fi
cd "$super"
for label; do
  work=$(mktemp -d -p "${WORK:-/tmp}") # outside, so that only results are recorded
  datalad containers-run -n bids-msseg -m "Segment lesions of sub-${label#sub-}" \
    --input 'inputs/raw/*.json' --input "inputs/raw/sub-${label#sub-}" \
    --output outputs/bids_msseg \
    "inputs/raw outputs/bids_msseg participant --participant-label ${label#sub-} --work-dir $work"
  rm -rf "$work"
done
