"""Tables from files: text and Parquet, plain or compressed. Bad input gives one error with its place."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from lesson import checks
from lesson.checks import DataError, printable, shown
from lesson.data.ids import narrowed, spelled
from lesson.data.origin import Origin

# Separators by the end of a file's name: .inter and .item are RecBole's, u.data and ratings.dat GroupLens'.
SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".inter": "\t", ".item": "\t", ".data": "\t", ".dat": "::"}
SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "::": "double colons"}
PARQUET = (".parquet", ".pq")
QUOTED, AFTER_BLANK = (rf'(?s)^\s{many}"([^"]|"")*"\s*$' for many in "*+")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")
BLOCK = 1 << 24  # bytes that Arrow parses in one go; no row may be longer

# Encodings by byte order mark. UTF-32's begins with that of UTF-16.
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class EncodingError(DataError):
    """The text is in another encoding than the one it was read with."""


class Table:
    """Columns of a file, and each row's place in the file for errors.

    Attributes:
        path: the file, as shown in messages.
        checksum: sha256 of the file.
        names: column names, in file order.
    """

    def __init__(self, path: str, checksum: str, names: Sequence[str], columns: pyarrow.Table) -> None:
        self.path, self.checksum = path, checksum
        self.names, self.columns = [name.strip() for name in names], columns

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def origin(self) -> Origin:
        """Its origin."""
        return Origin(data_name(self.path), self.checksum, {"rows": len(self), "columns": len(self.names)})

    def place(self, row: int) -> str:
        """A row's place in the file, for an error."""
        return f"row {row + 1}"

    def hint(self) -> str:
        """A hint for errors about columns."""
        return ""

    def fail(self, row: int, name: str, complaint: str) -> NoReturn:
        """Raise the error about a row's value in a column.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.path}, {self.place(row)}, column {name!r}: {complaint}")

    def column(self, name: str) -> pyarrow.ChunkedArray:
        """The values of a column; in a text file all are text.

        Raises:
            DataError: no column or several columns have this name, or there are no rows.
        """
        if self.names.count(name) != 1:
            have = (
                f"{self.names.count(name)} columns are named {name!r}" if name in self.names else f"no column {name!r}"
            )
            raise DataError(f"{self.path}: {have}; the columns are {listing(self.names)}{self.hint()}")
        if not len(self):
            raise DataError(f"{self.path}: a header and no rows")
        values = self.columns.column(self.names.index(name))
        kind = values.type
        if isinstance(kind, pyarrow.BaseExtensionType):  # UUIDs, exported by databases
            return pyarrow.chunked_array([[None if value is None else str(value) for value in values.to_pylist()]])
        if pyarrow.types.is_dictionary(kind):
            return values.cast(kind.value_type)
        if pyarrow.types.is_string_view(kind):
            return values.cast("string")
        return values.cast("float") if pyarrow.types.is_float16(kind) else values

    def numbers(self, name: str) -> np.ndarray:
        """A column as float32[rows].

        Raises:
            DataError: a value is not a finite number; the message has the first.
        """
        values = self.column(name)
        try:
            doubles = _doubles(values)
        except pyarrow.ArrowNotImplementedError:
            raise DataError(f"{self.path}, column {name!r}: {values.type} values are not numbers") from None
        with np.errstate(over="ignore"):  # values too large for float32 raise below
            numbers = doubles.to_numpy().astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad) or len(numbers) < len(values):
            row = int(bad[0]) if len(bad) else len(numbers)
            self.fail(row, name, f"{shown(values[row].as_py())} is not a finite number; every row needs one")
        return numbers

    def times(self, name: str) -> np.ndarray:
        """A column of times as float64[rows]: numbers as they are; dates, or text as in 2026-11-27 12:00, in seconds.

        Raises:
            DataError: a value is neither; the message has the first.
        """
        import pandas as pd  # pandas takes half a second to import, only needed here

        values = self.column(name).to_pandas()
        times = pd.to_numeric(values.astype(str), errors="coerce").astype("float64")
        if np.isnan(times.iloc[0]):  # the first value decides whether all are numbers or all are dates
            texts = values.astype(str)
            dates = pd.to_datetime(texts, errors="coerce", format="ISO8601", utc=True)
            # pandas also reads "now" and "today", which are another time at each reading.
            dates = dates.where(texts.str.strip().str[:1].str.isdigit())
            times = (dates - pd.Timestamp("1970-01-01", tz="UTC").as_unit("s")).dt.total_seconds()
        found: np.ndarray = times.to_numpy(np.float64)
        bad = np.flatnonzero(~np.isfinite(found))
        if len(bad):
            row = int(bad[0])
            self.fail(row, name, f"{shown(values.iloc[row])} is neither a number nor a date such as 2026-11-27")
        return found

    def distinct(self, name: str) -> tuple[np.ndarray, pyarrow.Array]:
        """A column as int64[rows], positions among its distinct values or −1 for none, and those values.

        Raises:
            DataError: its values cannot be compared.
        """
        values = self.column(name)
        try:
            coded = values.dictionary_encode().unify_dictionaries()
        except pyarrow.ArrowNotImplementedError:
            raise DataError(
                f"{self.path}, column {name!r}: {values.type} values are neither numbers nor text"
            ) from None
        codes = [pyarrow.compute.fill_null(chunk.indices, -1).to_numpy() for chunk in coded.chunks]
        return np.concatenate(codes).astype(np.int64), coded.chunk(0).dictionary

    def ids(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A column as int64[rows], positions among the distinct ids, and those ids, sorted; see `ids.spelled`.

        Raises:
            DataError: a row has no id; the message has the first.
        """
        codes, distinct = self.distinct(name)
        if (codes < 0).any():
            self.fail(int(np.argmin(codes)), name, "None is not an id; use text or a whole number")
        if pyarrow.types.is_integer(distinct.type):  # as text, a million of them take a second
            keys = distinct.to_numpy()
            keys = keys if keys.max() > np.iinfo(np.int64).max else keys.astype(np.int64)
        else:
            keys = narrowed(self._spelled(name, codes, distinct.to_pylist()))
        ids, position = np.unique(keys, return_inverse=True)
        return position[codes], ids

    def _spelled(self, name: str, codes: np.ndarray, keys: list[Any]) -> list[str]:
        texts: list[str] = []
        for key in keys:
            try:
                texts.append(spelled(key))
            except DataError as error:
                self.fail(int(np.argmax(codes == len(texts))), name, str(error))
        return texts


class TextTable(Table):
    """Delimited text. Everything is read as text, so that ids such as 007 or NA stay unchanged.

    Attributes:
        suffix: of the file, such as .csv, without a compression suffix.
        sep: the separator of fields.
        width: the number of columns.
        headless: whether line 1 has only numbers, so it cannot be a header.
    """

    def __init__(self, file: _File, text: bytes, sep: str, quoted: bool) -> None:
        self.path, self.suffix, self.sep, self.header_lines = file.path, file.suffix, sep, 1
        sign = sep
        if len(sep.encode()) > 1:  # Arrow needs a single byte
            sign = next((mark for mark in "\x1f\x1e\x1d\x1c" if mark.encode() not in text), "\x1f")
            text = text.replace(sep.encode(), sign.encode())
        self.text = text if text.endswith((b"\n", b"\r")) else text + b"\n"
        self.quoted = quoted and sign == sep and b'"' in text
        self.dialect: dict[str, Any] = {
            "delimiter": sign,
            "quoting": csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
        }
        with _long_fields():
            self.width = len(next(filter(None, self._reader())))
        self.cells = self._cells()
        if quoted and b'"' in text:
            columns = [self._unquoted(column) for column in self.cells.columns]
            self.cells = pyarrow.table(columns, names=self.cells.column_names)
        names = [column[0].as_py() for column in self.cells.columns]
        super().__init__(file.path, file.checksum, names, self.cells.slice(1))
        self.headless = all(NUMBER.fullmatch(name) for name in self.names)

    def name_columns(self, names: Sequence[str]) -> TextTable:
        """This table without a header: line 1 is its first row, and the columns get these names.

        Raises:
            DataError: there are more columns, or fewer.
        """
        if len(names) != self.width:
            raise DataError(
                f"{self.path}, line 1: {self.width} columns instead of {len(names)} "
                f"({', '.join(names[:4])}{' …' if len(names) > 4 else ''}){self.hint()}"
            )
        self.names, self.columns, self.header_lines = list(names), self.cells, 0
        return self

    def place(self, row: int) -> str:
        """The line of the file on which a row ends."""
        # Blank lines and line breaks in quotes make line and row numbers differ: count as Arrow does.
        with _long_fields():
            reader = self._reader()
            lines = (reader.line_num for fields in reader if self._is_row(fields))
            return f"line {next(itertools.islice(lines, row + self.header_lines, None))}"

    def hint(self) -> str:
        """A possible cause of wrong columns: the separator, or a missing header."""
        headless = "; line 1 has only numbers, but must have the column names" if self.headless else ""
        return self._other_separator() or headless

    def _other_separator(self) -> str:
        line = self.text[:4096].decode(errors="replace").strip().split("\n")[0]
        if self.dialect["delimiter"] in line:
            return ""
        seen = next((f", and line 1 holds {name}" for sign, name in SEPARATOR_NAMES.items() if sign in line), "")
        expected = SEPARATOR_NAMES.get(self.sep, shown(self.sep))
        return f" (the separator may be wrong: expected {expected}{seen}; set it with sep=, or --sep)"

    def _cells(self) -> pyarrow.Table:
        try:
            cells = self._parsed()
        except pyarrow.ArrowInvalid as error:
            complaint = self._complaint() or reason(error)
            raise DataError(f"{self.path}, {complaint}") from error
        # Arrow accepts a quote that never closes, and one that closes lines below with text after it: it makes one
        # value of all the lines between.
        last = cells.column(self.width - 1)[-1].as_py()
        ends_in_it = self.text.endswith(b'"' + last.replace('"', '""').encode())
        lines = self.text.count(b"\n") or self.text.count(b"\r")
        if self.quoted and (ends_in_it or lines != len(cells)) and (complaint := self._complaint()):
            raise DataError(f"{self.path}, {complaint}")
        return cells

    def _unquoted(self, texts: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
        """A column without the quotes that Arrow leaves: after a blank, and all beside a separator of several bytes."""
        found = pyarrow.compute.match_substring_regex(texts, AFTER_BLANK if self.quoted else QUOTED)
        if not pyarrow.compute.any(found).as_py() or (self.quoted and not self._has_quotes_after_blanks):
            return texts
        inner = pyarrow.compute.utf8_slice_codeunits(pyarrow.compute.utf8_trim_whitespace(texts), 1, -1)
        return pyarrow.compute.if_else(found, pyarrow.compute.replace_substring(inner, '""', '"'), texts)

    @cached_property
    def _has_quotes_after_blanks(self) -> bool:
        """Whether a field begins so; a quoted field may hold the same text."""
        fields = re.finditer(rb'"(?:[^"]|"")*"|[^%b\r\n]+' % re.escape(self.sep.encode()), self.text)
        return any(re.match(rb'\s+"', field[0]) for field in fields)

    def _parsed(self) -> pyarrow.Table:
        with _long_fields():  # of `_is_blank`
            return pyarrow.csv.read_csv(
                pyarrow.BufferReader(self.text),
                read_options=pyarrow.csv.ReadOptions(autogenerate_column_names=True, block_size=BLOCK),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self.dialect["delimiter"],
                    quote_char='"' if self.quoted else False,
                    newlines_in_values=self.quoted,
                    invalid_row_handler=lambda row: "skip" if self._is_blank(row) else "error",
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types={f"f{column}": pyarrow.string() for column in range(self.width)}
                ),
            )

    def _complaint(self) -> str:
        """Where and why this text is not a table; nothing if it is one."""
        line = 0
        with _long_fields():
            reader = self._reader(strict=True)
            try:
                for fields in reader:
                    line = reader.line_num
                    if len(fields) != self.width and self._is_row(fields):
                        return self._ragged(line, fields)
                    if sum(map(len, fields)) > BLOCK:
                        return f"line {line}: a row of more than {BLOCK >> 20} MB"
            except csv.Error as error:
                if "unexpected end" not in str(error):
                    return f"line {reader.line_num}: text after a closing quote"
                open_at = len(deque(self._reader(), maxlen=1)[0])
                return f"line {line + 1}, column {open_at}: a quote opens and never closes"
        return ""

    def _ragged(self, line: int, fields: list[str]) -> str:
        many = f"{len(fields)} field{'s' if len(fields) > 1 else ''} instead of {self.width}"
        if len(fields) < self.width:
            return f"line {line}, column {len(fields) + 1}: {many}{self._other_separator()}"
        extra = (
            "the last is blank: a separator too many?" if not fields[-1].strip() else f"{shown(fields[-1])} is the last"
        )
        return f"line {line}, column {self.width + 1}: {many} ({extra}){self._other_separator()}"

    def _is_blank(self, row: Any) -> bool:
        """Whether a row of Arrow's, as its text, is one blank field, with quotes or without."""
        try:
            ((field,),) = csv.reader(io.StringIO(row.text), strict=True, **self.dialect)
        except (csv.Error, ValueError):  # ValueError: more than one field, or none
            return False
        return field.isspace()

    def _is_row(self, fields: list[str]) -> bool:
        # No field, or one blank field, is a blank line; one empty field is a pair of quotes.
        return len(fields) == self.width or (fields != [] and not (len(fields) == 1 and fields[0].isspace()))

    def _reader(self, strict: bool = False) -> Any:
        lines = io.TextIOWrapper(io.BytesIO(self.text), "utf-8", newline=None)
        return csv.reader(lines, strict=strict, **self.dialect)


def read_table(path: str | Path, *, sep: str | None = None, encoding: str | None = None) -> Table:
    """Read a table from Parquet or from delimited text with a header, gzipped or zipped or plain.

    Parquet has the suffix `.parquet` or `.pq`, or its mark at both ends of the file.

    Args:
        path: the file.
        sep: the separator of text fields; None chooses by the file's name: commas for `.csv`, tabs for `.tsv`.
        encoding: the text's encoding; None means UTF-8, or the encoding of a byte order mark.

    Raises:
        DataError: the file cannot be read as a table.
    """
    file = _File(path)
    marked = file.content.startswith(b"PAR1") and file.content.endswith(b"PAR1")
    if file.suffix not in PARQUET and not marked:
        return _text(file, sep, encoding, quoted=True)
    if sep is not None or encoding is not None:
        raise DataError(f"{file.path}: sep and encoding are for text; Parquet has neither")
    try:
        # Unlike `read_table`, this accepts columns with equal names.
        columns = _as_pandas_shows(pyarrow.parquet.ParquetFile(pyarrow.BufferReader(file.content)).read())
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:  # the last two: pandas' metadata
        raise DataError(f"{file.path}: not a Parquet file that can be read ({reason(error)})") from error
    return Table(file.path, file.checksum, columns.column_names, columns)


def _as_pandas_shows(columns: pyarrow.Table) -> pyarrow.Table:
    """The columns with a named index that pandas stores as a range, and without an unnamed one, which numbers rows."""
    for index in (columns.schema.pandas_metadata or {}).get("index_columns", []):
        if isinstance(index, dict) and index.get("name"):
            numbers = np.arange(index["start"], index["stop"], index["step"])
            if len(numbers) == len(columns):  # else rows were taken out since, and their numbers are lost
                columns = columns.append_column(index["name"], pyarrow.array(numbers))
        elif index in columns.column_names and re.fullmatch(r"__index_level_\d+__", index):
            columns = columns.drop_columns(index)
    return columns


def read_text(
    path: str | Path, *, sep: str | None = None, encoding: str | None = None, quoted: bool = True
) -> TextTable:
    """As `read_table`, for text only.

    Args:
        path: the file.
        sep: the separator of fields.
        encoding: of the file.
        quoted: whether double quotes enclose fields.

    Raises:
        DataError: the file cannot be read as a table.
    """
    return _text(_File(path), sep, encoding, quoted)


def _text(file: _File, sep: str | None, encoding: str | None, quoted: bool) -> TextTable:
    if sep is None and file.suffix not in SEPARATORS:
        raise DataError(
            f"{file.path}: tables are read from .csv (commas), .tsv (tabs) or .parquet, also as .gz or .zip, not "
            f"{file.suffix or 'this'}; for other text set the separator with sep= or --sep"
        )
    if sep is None:
        sep = SEPARATORS[file.suffix]
        if sep == "::" and b"::" not in file.content[:4096].split(b"\n")[0]:
            sep = "\t"  # HetRec's .dat
    elif not checks.text("sep", sep) or set(sep) & set('"\r\n\0'):
        raise DataError(f"sep={shown(sep)}: use one or more characters, without quotes or line breaks")
    sep = sep.replace("\\t", "\t")  # as shells pass it
    text = _utf8(file, sep, encoding)
    return TextTable(file, text, sep, quoted)


def listing(names: Sequence[str]) -> str:
    """Names for an error, the first twelve of them."""
    return ", ".join(map(repr, names[:12])) + (f" … ({len(names)} in all)" if len(names) > 12 else "")


def as_path(path: Any) -> Path:
    """A path, from a str or path-like object.

    Raises:
        DataError: it cannot be a path.
    """
    try:
        return Path(path)
    except TypeError:
        raise DataError(f"path={shown(path)}: pass the path of a file") from None


def data_name(path: str | Path) -> str:
    """The name of a file's data in reports: the file's name without suffixes."""
    return printable(Path(re.sub(r"\.(gz|zip)$", "", as_path(path).name, flags=re.IGNORECASE)).stem)


def reason(error: Exception) -> str:
    """Why something failed, on one line."""
    return getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]


class _File:
    """A file's bytes, decompressed.

    Attributes:
        path: as shown in messages.
        suffix: the name's suffix in lower case, without .gz or .zip.
        checksum: sha256 of the file as it is on disk.
        content: the bytes.
    """

    def __init__(self, path: str | Path) -> None:
        name, self.path = as_path(path), printable(as_path(path))
        try:
            raw = name.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            raise DataError(f"{self.path}: cannot be read ({reason(error)})") from error
        self.checksum = hashlib.sha256(raw).hexdigest()
        try:
            if raw.startswith(b"\x1f\x8b"):
                raw = gzip.decompress(raw)
            elif raw.startswith(b"PK\x03\x04"):
                raw, name = self._member(raw, name)
        # RuntimeError: a password; NotImplementedError: a method of compression
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
            raise DataError(f"{self.path}: cannot be decompressed ({reason(error)})") from error
        if not raw:
            raise DataError(f"{self.path}: the file is empty")
        self.suffix = (name.with_suffix("") if name.suffix.lower() in (".gz", ".zip") else name).suffix.lower()
        self.content = raw

    def _member(self, raw: bytes, name: Path) -> tuple[bytes, Path]:
        if name.suffix.lower() != ".zip":
            return raw, name  # other programs' files are zips too, such as .xlsx
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith("__MACOSX/")]
            if len(members) != 1:
                raise DataError(f"{self.path}: {len(members)} files ({listing(members)}); zip one, or unpack it")
            return archive.read(members[0]), Path(members[0])


def _utf8(file: _File, sep: str, encoding: str | None) -> bytes:
    """Text in any encoding as UTF-8, without a byte order mark."""
    raw, path = file.content, file.path
    said = checks.text("encoding", encoding) or next(
        (name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8"
    )
    try:
        text = raw.decode(said)
        utf8 = raw if codecs.lookup(said).name == "utf-8" else text.encode()
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode(said, errors="replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        raise EncodingError(
            f"{path}, line {len(before)}, column {before[-1].count(sep) + 1}: "
            f"byte 0x{raw[error.start]:02x} is not valid {said}"
            + ("; set the encoding with encoding= or --encoding (latin-1?)" if encoding is None else "")
        ) from error
    except UnicodeError as error:
        raise EncodingError(f"{path}: not valid {said} ({error})") from error
    except (LookupError, ValueError):
        raise DataError(f"encoding={shown(encoding)}: there is no such encoding of text") from None
    while utf8.startswith(codecs.BOM_UTF8):
        utf8 = utf8.removeprefix(codecs.BOM_UTF8)
    if not utf8 or utf8.isspace():
        raise DataError(f"{path}: the file is empty")
    if (zero := utf8.find(b"\0")) >= 0:
        line = utf8.count(b"\n", 0, zero) + 1
        raise EncodingError(
            f"{path}, line {line}: a zero byte, which text does not have; if this is UTF-16, set encoding='utf-16-le'"
        )
    return utf8


def _doubles(values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Values as float64; for text, those before the first that is not a number."""
    try:
        return values.cast("double", safe=False)
    except pyarrow.ArrowInvalid:
        values = pyarrow.compute.utf8_trim_whitespace(values)
    readable, end = 0, len(values)
    while readable < end:
        middle = (readable + end + 1) // 2
        try:
            values.slice(readable, middle - readable).cast("double")
            readable = middle
        except pyarrow.ArrowInvalid:
            end = middle - 1
    return values.slice(0, readable).cast("double")


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit on field size."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
