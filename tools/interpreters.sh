#!/bin/sh
# The Python interpreters of this machine that the package supports, one path a line: each version
# once, free-threaded builds beside the others. Looks on PATH, in pyenv's and uv's stores, and at
# what PCPBUDDY_PYTHONS lists.
here=$(dirname "$0")
{
  for python in $PCPBUDDY_PYTHONS; do echo "$python"; done
  for version in 3.11 3.12 3.13 3.13t 3.14 3.14t 3.15 3.15t; do
    command -v "python$version"
    ls "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"python$version"
    ls "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}"/*/bin/"python$version"
  done
} 2>/dev/null | while read -r python; do
  tag=$("$python" "$here/tag.py" 2>/dev/null) || continue
  case " $seen " in *" $tag "*) continue ;; esac
  seen="$seen $tag"
  echo "$python"
done
