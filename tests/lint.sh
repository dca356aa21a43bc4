#!/bin/sh
# Everything that can be held without running the program. Run by `make lint` in the repository.
set -u
status=0
fail() { echo "lint: $*" >&2; status=1; }

c_files=$(git ls-files -co --exclude-standard '*.c' '*.h' | while read -r f; do
    [ -f "$f" ] && echo "$f"; done)
sources=$(echo "$c_files" | grep '\.c$' | grep -v '^reference/')

# shellcheck disable=SC2086
clang-format --dry-run -Werror $(echo "$c_files" | grep -v '^reference/') \
    $(git ls-files -co --exclude-standard '*.cu') || fail "run 'make format'"

# Both compilers, no warning. Kernels built per instruction set are compiled here as the baseline.
for cc in gcc clang; do
    # shellcheck disable=SC2086
    echo "$sources" | xargs -P "$(nproc)" -n 4 $cc -std=c11 -D_GNU_SOURCE -O1 -fopenmp -Wall -Wextra \
        -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror -I. -Itests/cuda_host \
        ${LINT_CFLAGS:-} -fsyntax-only || fail "$cc has warnings"
done

cppcheck --quiet --std=c11 --language=c -D_GNU_SOURCE -D__GNUC__=12 -I. -Itests/cuda_host \
    --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -j "$(nproc)" \
    --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches --suppress=invalidPointerCast \
    --suppress=memleak:server/sched.c \
    $(echo "$sources" | grep -v '^tests/') || fail "cppcheck"

# No clang-analyzer: it cannot see that err_set returns an error, and cppcheck does that part.
checks='-*,bugprone-suspicious-*,-bugprone-suspicious-include,bugprone-infinite-loop,bugprone-misplaced-*'
checks="$checks,bugprone-too-small-loop-variable,misc-redundant-expression"
checks="$checks,bugprone-assert-side-effect"
echo "$sources" | grep -vE '^(tests|kernels)/' | xargs -P "$(nproc)" -n 4 sh -c \
    'clang-tidy --quiet --checks="$0" --warnings-as-errors="*" "$@" -- -std=c11 -D_GNU_SOURCE -I. -Itests/cuda_host \
    2>/dev/null' "$checks" || fail "clang-tidy"

# Layers: engine and kernels know no codec, no network and nothing above them.
if grep -nE '#include *[<"](libav|libsw|libweb|microhttpd|spng|media/|proto/|server/|tools/)' \
    $(echo "$c_files" | grep -E '^(base|engine|kernels)/'); then
    fail "base, engine and kernels include something above them"
fi

scripts=$(git ls-files -co --exclude-standard '*.js')
command -v node > /dev/null && for f in $scripts; do
    node --check --input-type=module < "$f" || fail "$f"
done

for f in $c_files $scripts $(git ls-files -co --exclude-standard '*.py' '*.css'); do
    [ -f "$f" ] || continue
    n=$(wc -l < "$f")
    limit=600
    case $f in reference/*) limit=650 ;; esac # the model stays in one file
    [ "$n" -le $limit ] || fail "$f has $n lines; $limit is the limit"
done

(cd clients/python && mypy --no-error-summary --cache-dir=/dev/null --python-executable /usr/bin/python3) ||
    fail "mypy"

for f in $(git ls-files -co --exclude-standard '*.py'); do
    [ -f "$f" ] && [ "$(basename "$f")" != __init__.py ] || continue # those import to export
    /usr/bin/python3 - "$f" <<'PY' || fail "$f"
import ast, sys
path = sys.argv[1]
tree = ast.parse(open(path).read(), path)
imported = {}
for node in ast.walk(tree):
    if isinstance(node, (ast.Import, ast.ImportFrom)) and getattr(node, 'module', '') != '__future__':
        for a in node.names:
            imported[(a.asname or a.name).split('.')[0]] = node.lineno
names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
unused = [f'{path}:{line}: {name} is imported and not used'
          for name, line in imported.items() if name not in names and name not in ('*', 'conftest')]
print('\n'.join(unused), end='\n' if unused else '')
sys.exit(bool(unused))
PY
done

git ls-files | xargs grep -nI -E '/(work|home)/[a-z]' -- 2>/dev/null | grep -vE '^(tests/lint.sh)' \
    && fail "a path of somebody's machine"
[ "$status" = 0 ] && echo "lint: clean"
exit "$status"
