"""Which failures of a load are for good: trying again cannot mend them."""

from visionloop.errors import ConfigurationError, CorruptError, NotFoundError, RefusedError

# The bundle must change, which means another version, or the flags must.
FOR_GOOD = (CorruptError, RefusedError, NotFoundError, ConfigurationError)
