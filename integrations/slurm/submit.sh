#!/bin/bash
# Send a cohort to SLURM: one task a participant, then the group level.
#
# usage: submit.sh BIDS OUT [OPTION OF SBATCH..]    for example --partition=short --mem=8G
#
# AT_ONCE   tasks that run at the same time (default 50)
# Other variables: see participants.sbatch

set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
BIDS=$(realpath "$1") OUT=$(realpath -m "$2")
shift 2
mkdir -p "$OUT/logs"
LABELS=$(mktemp "$OUT/logs/participants-XXXXXX.txt") # tasks of an earlier array still read theirs
chmod a+r "$LABELS"
export BIDS OUT LABELS
find "$BIDS" -maxdepth 1 -name 'sub-*' \( -type d -o -type l \) -printf '%f\n' | sort > "$LABELS"
count=$(wc -l < "$LABELS")
[ "$count" -gt 0 ] || { echo "$BIDS has no participants" >&2; exit 66; }

array=$(sbatch --parsable --array="1-$count%${AT_ONCE:-50}" "$@" "$here/participants.sbatch")
# afterany: the table also has those that failed, with the reason
group=$(sbatch --parsable --dependency="afterany:${array%%;*}" "$@" "$here/group.sbatch")
echo "$count participants: job ${array%%;*}; group: job ${group%%;*}"
