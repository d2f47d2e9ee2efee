#!/usr/bin/env bash
# Ray 2.60.0: ray.init() replaces the handler of SIGTERM of the process that calls it, and ray.shutdown() does not put the
# earlier one back. A notebook or a service that had a handler of its own has lost it from then on.
#
# Expected: after ray.shutdown() the process has the handlers that it had before ray.init().
# Seen (Python 3.11, Linux x86-64):
#     SIGINT kept
#     SIGTERM replaced
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ray==2.60.0
cat > "$folder/handlers.py" <<'PYTHON'
import signal

import ray


def own(signum, frame):
    """A handler of the program that embeds Ray."""


before = {}
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, own)
    before[each] = own
ray.init(num_cpus=1, include_dashboard=False, logging_level="error", log_to_driver=False)
ray.shutdown()
for each, handler in before.items():
    print(each.name, "kept" if signal.getsignal(each) is handler else "replaced")
PYTHON
seen=$(RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" "$folder/handlers.py" 2>/dev/null)
echo "$seen"
[ "$seen" = $'SIGINT kept\nSIGTERM replaced' ]
