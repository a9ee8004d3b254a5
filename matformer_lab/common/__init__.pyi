"""What every room uses: errors, files read and written with care, progress."""

from .errors import InputError as InputError
from .paths import StrPath as StrPath
from .progress import Progress as Progress
