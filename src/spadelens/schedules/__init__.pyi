# The public names, read at run time too.
from .schedule import (
    Auto as Auto,
    Guarded as Guarded,
    Late as Late,
    Schedule as Schedule,
    Table as Table,
    Uniform as Uniform,
)
from .schedule_text import parse_schedule as parse_schedule
