# The public names, read at run time too.
from .schedule import (
    LateLayers as LateLayers,
    Schedule as Schedule,
    SearchedSchedule as SearchedSchedule,
    Table as Table,
    TableWithFallback as TableWithFallback,
    Uniform as Uniform,
)
from .schedule_text import parse_schedule as parse_schedule
