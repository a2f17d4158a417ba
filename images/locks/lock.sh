#!/bin/sh
# Writes the lock of each image: exact versions (those of constraints.txt, which the tests ran with)
# and the sha256 of every file that may be installed. `make lock-images` calls it.
set -eu
cd "$(dirname "$0")/../.."
: "${UV:=uv}"

lock() { # NAME, then uv's arguments
    name=$1
    shift
    "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-package visionloop \
        --output-file "images/locks/$name.txt" "$@"
}

lock inference-cpu pyproject.toml --extra inference --constraint constraints.txt
lock labeling-ingest pyproject.toml --extra labeling --constraint constraints.txt
lock training pyproject.toml --extra training --constraint constraints.txt
# CUDA's libraries come as packages of their own versions, which no other program shares.
lock inference-cuda pyproject.toml images/locks/cuda.in --extra inference-gpu --constraint constraints.txt
# What builds our own package, and the bill of materials; it stays behind in the build.
lock build images/locks/build.in
