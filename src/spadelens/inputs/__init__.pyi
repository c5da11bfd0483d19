# The public names, read at run time too.
from .kind import kind_of as kind_of
from .samples import (
    EmbeddedText as EmbeddedText,
    RowSample as RowSample,
    TextSample as TextSample,
    embed_text as embed_text,
    row_sample as row_sample,
    text_sample as text_sample,
)
