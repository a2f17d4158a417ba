#!/bin/sh
# program.sh ENTRY_POINT: the second step of every image. Installs our package below /build/program,
# which becomes the last layer, with the command `visionloop` and one program.
set -eu
tools/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir wheels .
tools/bin/pip --python /opt/visionloop/bin/python install --no-deps --no-index --compile \
    --prefix /build/program wheels/*.whl
for program in visionloop-inference visionloop-labeling visionloop-train; do
    [ "$program" = "$1" ] || rm "program/bin/$program"
done
# The bill of materials tells what is in an environment, so ours has to be in it, too.
tools/bin/pip --python /opt/visionloop/bin/python install --no-deps --no-index --no-compile \
    wheels/*.whl
mkdir -p program/share/visionloop
tools/bin/cyclonedx-py environment --output-reproducible --output-format JSON \
    --output-file program/share/visionloop/sbom.cdx.json /opt/visionloop/bin/python
