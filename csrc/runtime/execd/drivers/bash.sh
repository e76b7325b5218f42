# Runs the code of a bash context, in an interactive bash: there SIGINT ends what runs and nothing more. Requests come as commands on
# its standard input: __opensandbox_run CODE, and __opensandbox_done NUMBER STATUS, which is told with the request's number.
PS1= PS2=
export -n PS1 PS2
unset HISTFILE
set +m +H +o history
exec 250>&8 7<&- 8>&- 9<&-
__opensandbox_run() {
    builtin printf '{"started":true}\n' >&250
    eval "$1" </dev/null 250>&-
}
__opensandbox_done() {
    builtin printf '{"done":%d,"request":%d}\n' "$2" "$1" >&250
}
builtin printf '{"ready":true}\n' >&250
