#!/bin/sh
# In crun's place: --root R --log L --log-format json exec --process P --pid-file N ID. What it does is in R/script.
# shellcheck disable=SC2034
log=$4 document=$9 number=${11}
begin() { echo "$1" >"$number"; }
say() { printf '{"msg":"%s","level":"error","time":"x"}\n' "$1" >>"$log"; }
# shellcheck disable=SC1091
. "$2/script"
