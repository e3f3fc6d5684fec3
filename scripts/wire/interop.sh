#!/usr/bin/env bash
# Everything beside this file that speaks with programs of others, but for h2spec. What cannot run here is skipped, and said
# at the end; what fails fails it all, at the end. `interop.sh grpcio upstreams` runs some of it.
set -uo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
all=(clients grpcio upstreams grpc-go)
status=0
lines=()
for part in "${@:-${all[@]}}"; do
    printf '\n==> %s\n' "$part"
    begun=$SECONDS
    verdict=ok code=0
    out="$(mktemp)"
    "$here/$part.sh" 2>&1 | tee "$out" || code=$?
    case $code in
    0) verdict="$(tail -n 1 "$out")" ;;
    77) verdict="SKIPPED: $(tail -n 1 "$out")" ;;
    *) verdict="FAILED ($code)" status=1 ;;
    esac
    lines+=("$(printf '%4d s  %-10s %s' $((SECONDS - begun)) "$part" "$verdict")")
    while read -r line; do lines+=("        $line"); done < <(grep -E '^(SKIPPED|FAILED): ' "$out")
    rm -f "$out"
done
printf '\n'
printf '%s\n' "${lines[@]}"
exit "$status"
