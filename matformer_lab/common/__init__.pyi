"""What every package uses: errors, careful reading and writing of files, progress bars."""

from .errors import InputError as InputError
from .paths import StrPath as StrPath
from .progress import Progress as Progress
