#!/usr/bin/env bash
# Runs the tests with the lowest versions that pyproject.toml allows. `make test-lowest` does so in a virtual
# environment of its own. torch from PyPI is a CUDA build on Linux: allow 8 GB of disk space.
#
#   scripts/check_lowest.sh [pytest options and paths]
#
# PYTHON: the interpreter, the lowest supported one unless you say otherwise. LOWEST_VENV: where the environment goes.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.10}
venv=${LOWEST_VENV:-/tmp/spadelens-lowest}

if [ ! -x "$venv/bin/uv" ]; then
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
fi
install() {
    VIRTUAL_ENV="$venv" SSL_CERT_FILE="${SSL_CERT_FILE:-${PIP_CERT:-}}" "$venv/bin/uv" pip install --quiet "$@"
}
# What pyproject.toml names is installed at its lower bound, and what those packages need at its newest.
install --resolution lowest-direct --editable '.[timm,hf]'
# The tools of the tests stay at any version: they are not what is being tried.
install pytest pytest-cov hypothesis jsonschema

"$venv/bin/python" - <<'PYTHON'
import platform
from importlib.metadata import version

names = "torch torchvision captum numpy safetensors pillow click rich jinja2 matplotlib scikit-image scikit-learn scipy"
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in f"{names} timm transformers".split()))
PYTHON
# Old releases of other packages use what has since been deprecated: matplotlib 3.7 does, of pyparsing.
exec "$venv/bin/python" -m pytest -W ignore::DeprecationWarning "$@"
