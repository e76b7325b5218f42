#!/bin/sh
# What the lifecycle server makes a container's entrypoint: starts execd beside the command that was asked for.
# The program comes with its own loader and libraries, so that it runs in any image of this architecture.
here=$(dirname "$0")
"$here/execd/loader" --library-path "$here/execd/lib" "$here/execd/opensandbox-execd" --port 44772 &
unset EXECD_ACCESS_TOKEN
if [ $# -eq 0 ]; then set -- tail -f /dev/null; fi
exec "$@"
