# Shared by the scripts here, which source it: their settings, a folder for what they make, environments of Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
export PYTHONSAFEPATH=1  # the installed package is meant, never the folder of the same name here
work=$(mktemp -d)
# Tests of what a build decides: in any, what it says of itself; where there are kernels, that the extensions are what
# they should be, and a kernel runs.
of_any_build=(tests/test_ffi.py tests/test_support.py)
of_builds=("${of_any_build[@]}" tests/kernels/test_{constants,handler_emulated,dense_decode_emulated}.py)

step() {
  echo "== $* [$((SECONDS / 60)) min]"
}

# An interpreter of a version, from PATH or from pyenv.
python_of() {
  local candidate
  for candidate in "$(command -v "python$1" || true)" "$(pyenv root 2>/dev/null || true)"/versions/"$1".*/bin/python; do
    if [ -x "$candidate" ] && "$candidate" -c 'import venv' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python $1 is not installed, and is needed" >&2
  return 1
}

# A fresh environment with a given jax, made current.
environment() {
  local python
  python=$(python_of "$1")
  rm -rf "${work:?}/$1"
  "$python" -m venv "$work/$1"
  # shellcheck disable=SC1091
  source "$work/$1/bin/activate"
  pip install "$2"
  step "$(python --version), $(python -c 'import jax; print("jax", jax.__version__)')"
}

# What the tests need besides the package, in the current environment.
test_requirements() {
  python -c 'import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*sorted({name for extra in extras.values() for name in extra if not name.startswith("jax-flash-mla")}), sep="\n")' \
    >"$work/requirements.txt"
  pip install numpy rich -r "$work/requirements.txt"
}

# Debian's packages, where there are none yet.
system_packages() {
  type bazel clang-format cmake g++ ninja readelf &>/dev/null && return
  step "Debian's packages"
  apt-get update -qq
  apt-get install -qq -y --no-install-recommends bazel-bootstrap binutils clang-format cmake g++ ninja-build >/dev/null
}

# Installs the package as on a machine without network, whose environment has what a build needs: of the headers' pins
# all but jaxlib, which is here, and no nvcc. jaxlib's own headers are then used.
install_offline() {
  pip install --no-deps $(grep -oE '^[a-z-]+==[0-9.]+' third_party/headers.lock | grep -v ^jaxlib)
  pip install cmake ninja 'scikit-build-core>=0.11'
  JAX_FLASH_MLA_CUDA="${JAX_FLASH_MLA_CUDA:-system}" PIP_NO_INDEX=1 PIP_FIND_LINKS='' pip install --no-build-isolation --no-deps "$@" .
}
