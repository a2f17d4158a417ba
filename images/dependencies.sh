#!/bin/sh
# dependencies.sh LOCK [arguments of slim.py]: the first step of every image. Installs what the lock
# names into /opt/visionloop, wheels of known digests alone, and makes it smaller.
set -eu
lock=$1
shift
# pip, and what builds our package and the bill of materials: they stay behind in the build.
python3 -m venv tools
tools/bin/pip install --require-hashes --no-deps --only-binary :all: -r build.txt
python3 -m venv --without-pip /opt/visionloop
tools/bin/pip --python /opt/visionloop/bin/python install --no-compile \
    --require-hashes --no-deps --only-binary :all: -r "$lock"
/opt/visionloop/bin/python slim.py "$@"
