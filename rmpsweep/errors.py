"""Every error that rmpsweep raises on purpose, and the exit code with which each one ends the command.

RmpsweepError                     1
├── InputError (ValueError)       2   what the user gave cannot be run
│   ├── SweepError                    sweep file, recipe or option
│   ├── DataError                     images, labels, splits
│   ├── NetworkError                  factory, weights
│   │   └── ConversionError           a layer that cannot be converted faithfully
│   ├── CalibrationError              thresholds that cannot be found, e.g. a silent layer
│   └── ResultsError                  results directory of another sweep, gaps at merge
├── VerificationError             1   results on disk differ from what is computed again
├── IncompleteError               3   units are missing at the end: quarantined, or a limit on failures was reached
│   └── StoppedError            130   the launch was stopped on request before its end
└── UnusableError                 4   the place to run on or to write to cannot be used
    ├── StorageError
    │   └── TableError                a table that is missing, damaged or of another version
    ├── ClusterError
    └── TrackingError

Every message names the place of the error, what was received there, and what is allowed or what to do.
"""


class RmpsweepError(Exception):
    """The base class of all errors that rmpsweep raises on purpose."""

    exit_code = 1


class InputError(RmpsweepError, ValueError):
    """Something the user gave is invalid."""

    exit_code = 2


class SweepError(InputError):
    """A sweep file, recipe or command-line option is invalid."""


class DataError(InputError):
    """Images, labels or splits are missing, unreadable or inconsistent."""


class NetworkError(InputError):
    """A network cannot be built, or its weights cannot be used."""


class ConversionError(NetworkError):
    """A layer of the network has no faithful spiking counterpart; the message names the node and the module."""


class CalibrationError(InputError):
    """Thresholds cannot be determined; the message names the layer."""


class ResultsError(InputError):
    """A results directory does not fit the sweep, or is too incomplete for what was asked."""


class VerificationError(RmpsweepError):
    """Committed units differ from what is computed again, or cannot be computed; the message names the units."""


class IncompleteError(RmpsweepError):
    """A launch ended and units are missing: they are quarantined, or a limit on failures ended the launch."""

    exit_code = 3


class StoppedError(IncompleteError):
    """A launch stopped before its end because it was asked to.

    Committed units are kept, and running the same launch again continues the sweep.
    """

    exit_code = 130


class UnusableError(RmpsweepError):
    """The cluster, the storage or the tracking server cannot be used."""

    exit_code = 4


class StorageError(UnusableError):
    """A file, a directory or an object store cannot be read or written."""


class TableError(StorageError):
    """A table of results is missing, damaged or of another version.

    If an object store is away, reading a table raises a StorageError that is no TableError.
    """


class ClusterError(UnusableError):
    """Workers cannot be started, or all of them have been lost."""


class TrackingError(UnusableError):
    """The MLflow server or database cannot be used."""
