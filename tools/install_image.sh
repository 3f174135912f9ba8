#!/bin/sh
# The one recipe that Dockerfile and Singularity.def install bids_msseg by.
#
# usage: install_image.sh libraries PREFIX         an environment with what requirements.lock names
#        install_image.sh package PREFIX [TARGET]  bids_msseg itself, below TARGET instead if given
#        install_image.sh templates PREFIX DIR     TemplateFlow's MNI152NLin2009cAsym at 1 mm
#
# Run it where setup.py lies. pip's settings are those of the machine or of what it binds in.
#
# TORCH        build of torch: the CPU one, or torch==2.13.0 for PyPI's own (with CUDA)
# TORCH_INDEX  where to look for the CPU build if the configured index has none

set -eu
umask 022 # any user may run what is installed
TORCH=${TORCH:-torch==2.13.0+cpu}
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1

pip_into() { # the base's pip installs into an environment that needs none of its own
  prefix=$1
  shift
  python3 -m pip --python "$prefix/bin/python" install -q --no-compile "$@"
}

compile() { # unchecked: a copied image keeps no times, and a read-only one cannot write them again
  # segmenting imports none of the packages of -x: their bytecode would only take room
  "$1/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash \
    -x '/site-packages/(sympy|mpmath|torch/(_export|_inductor|onnx|testing/_internal))/' \
    "$2" > /dev/null || true
}

slim() { # what no run of the app opens: tests, headers, sources of modules that are built already
  find "$1" -type d -name tests -path '*/site-packages/*' -prune -exec rm -rf {} +
  find "$1" -type f -path '*/site-packages/*' \( -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \
    -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.f' \) -delete
  for packages in "$1"/lib/python3*/site-packages; do
    rm -rf "$packages/torch/test" "$packages/torch/include" "$packages/torch/share"
    rm -rf "$packages/matplotlib/mpl-data/sample_data"
    if [ -d "$packages/torch/bin" ]; then
      find "$packages/torch/bin" -mindepth 1 ! -name torch_shm_manager -delete
    fi
    find "$packages/torch/lib" -name '*.a' -delete
  done
}

libraries() {
  python3 -m venv --without-pip "$1"
  pip_into "$1" "$TORCH" || pip_into "$1" --index-url "$TORCH_INDEX" "$TORCH"
  pip_into "$1" --no-deps --require-hashes -r requirements.lock
  slim "$1"
  compile "$1" "$1/lib"
}

package() {
  pip_into "$1" --no-deps --no-build-isolation --prefix "${2:-$1}" .
  for installed in "${2:-$1}"/lib/python3*/site-packages/bids_msseg; do
    compile "$1" "$installed"
  done
}

templates() { # without a network the image is whole all the same: the embedded template is inside
  mkdir -p "$2"
  if TEMPLATEFLOW_HOME=$2 "$1/bin/python" - <<'PY'
import sys

from requests import RequestException
from templateflow import api

try:
    api.get("MNI152NLin2009cAsym", resolution=1, suffix=["T1w", "mask"], extension=".nii.gz")
except (OSError, RequestException, RuntimeError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
PY
  then
    find "$2" -type f -size 0 -delete
    find "$2" -type d -empty -delete
    echo "MNI152NLin2009cAsym is inside"
  else
    rm -rf "$2"
    mkdir -p "$2"
    echo "WARNING: no network, so MNI152NLin2009cAsym is NOT inside; MNI152NLin2009aSym is" >&2
  fi
}

case ${1:-} in
  libraries | package | templates) "$@" ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
