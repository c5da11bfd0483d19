#!/usr/bin/env bash
# Every check of the project, in order of how fast it fails. `make test` runs it in .venv, and so does CI.
set -euo pipefail
cd "$(dirname "$0")/.."
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

step() { printf '\n== %s\n' "$1"; }

step 'ruff: style'
ruff format --check .
ruff check .
step 'import-linter: imports go one way'
lint-imports --no-cache
step 'deptry: what is imported is declared'
deptry src
step 'mypy: types'
mypy
step 'the wheel, outside of the repository'
python -m build --wheel --outdir "$temporary/dist" . >"$temporary/build.log" 2>&1 || { cat "$temporary/build.log"; exit 1; }
python -m pip install --quiet --no-deps --target "$temporary/site" "$temporary"/dist/*.whl
(
    cd "$temporary"
    PYTHONPATH="$temporary/site" python -c "import spadelens, sys; sys.exit(not spadelens.__file__.startswith('$temporary'))"
    PYTHONPATH="$temporary/site" python -m spadelens demo --out "$temporary/demo"
    test -s demo/report.html && test -s demo/report.json && test -s demo/trojan/trace.safetensors
)
step 'the documentation'
sphinx-build -W --keep-going -q -b html docs "$temporary/docs"
step 'the examples'
for example in examples/*.py; do
    echo "$example"
    (cd "$temporary" && python "$OLDPWD/$example")
done
step 'pytest'
# Every process computes in one thread (tests/conftest.py); a file stays in one process, with what it has set up.
pytest --numprocesses 2 --dist loadfile --cov --cov-report=term
