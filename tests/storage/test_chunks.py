"""A block of a chunk is returned intact or not at all, whatever happened to the chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empiarfs.model import File
from empiarfs.storage import chunks
from empiarfs.storage.chunks import Chunk

BLOCK_BYTES = 1 << 17  # eight blocks a chunk
FILE = File("10028/a", 1 << 30, 5)
CHUNK = Chunk("a", BLOCK_BYTES, FILE, 3)

BLOCKS = st.dictionaries(st.sampled_from(CHUNK.numbers), st.binary(max_size=60), min_size=1)
FILES = st.builds(
    File,
    st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape")),
    st.integers(0, 10**18),
    st.none() | st.integers(-(10**10), 10**12),
    st.booleans(),
)
SIZES = st.sampled_from([1 << 12, 1 << 16, 1 << 17, 3 << 16, 1 << 20, 1 << 22])
CHUNKS = st.builds(Chunk, st.sampled_from(["a", "ebi", "\u0436"]), SIZES, FILES, st.integers(0, 10**17))


def stored(blocks: dict[int, bytes], chunk: Chunk = CHUNK) -> bytes:
    """Return the content of the file of a chunk."""
    return b"".join(chunks.pack(chunk, blocks))


def blocks_of(file: bytes, chunk: Chunk = CHUNK) -> dict[int, bytes]:
    """Return the blocks of a chunk as a store reads them, one by one; all at once makes no difference."""
    head = chunks.parse(chunk, file[: chunk.head_bytes])
    if head is None:
        return {}
    data = memoryview(file)
    found: dict[int, bytes] = {}
    for number, span in head.spans.items():
        found |= head.intact([number], data[span.start : span.stop])
    spans = list(head.spans.values())
    assert head.intact(list(head.spans), data[spans[0].start : spans[-1].stop]) == found
    return found


@given(blocks=BLOCKS)
def test_each_block_is_read_back(blocks: dict[int, bytes]) -> None:
    """Packed blocks are parsed again, and absent blocks take no room."""
    file = stored(blocks)
    assert blocks_of(file) == blocks
    assert len(file) == CHUNK.head_bytes + sum(map(len, blocks.values())) <= CHUNK.max_bytes


@pytest.mark.promise(
    "A cached block is verified against its checksum and its name whenever it is read from disk; one that fails is "
    "fetched again."
)
@given(blocks=BLOCKS, flip=st.integers(0, 10_000))
def test_a_flipped_bit_loses_at_most_its_block(blocks: dict[int, bytes], flip: int) -> None:
    """With any flipped bit each block is unchanged or missing, and one flipped block loses no other."""
    file = bytearray(stored(blocks))
    place = flip // 8 % len(file)
    file[place] ^= 1 << flip % 8
    got = blocks_of(bytes(file))
    assert got.items() <= blocks.items()
    begin = CHUNK.head_bytes
    if place >= begin:
        for number in sorted(blocks):
            assert (number in got) != (begin <= place < begin + len(blocks[number]))
            begin += len(blocks[number])


@given(blocks=BLOCKS, cut=st.integers(0, 400), more=st.binary(max_size=9))
def test_a_chunk_of_another_length_changes_no_block(blocks: dict[int, bytes], cut: int, more: bytes) -> None:
    """In a chunk of any length a block is intact or missing, and bytes behind the last one are ignored."""
    file = stored(blocks)
    assert blocks_of(file + more) == blocks
    got = blocks_of(file[: cut % len(file)])
    assert got.items() <= blocks.items()
    assert blocks[max(blocks)] == b"" or max(blocks) not in got


@given(chunk=CHUNKS, other=CHUNKS)
def test_a_block_is_returned_only_under_its_own_key(chunk: Chunk, other: Chunk) -> None:
    """A chunk read under another key has no block."""
    file = stored({chunk.numbers.start: b"a"}, chunk)
    assert blocks_of(file, chunk) == {chunk.numbers.start: b"a"}
    assert blocks_of(file, other) == ({chunk.numbers.start: b"a"} if other == chunk else {})


@given(blocks=st.lists(st.binary(min_size=5, max_size=5), min_size=2, max_size=5, unique=True))
def test_swapped_blocks_are_rejected(blocks: list[bytes]) -> None:
    """Intact bytes of another block are rejected, also with the other's checksum."""
    right = dict(enumerate(blocks, CHUNK.numbers.start))
    turned = dict(enumerate([blocks[1], blocks[0], *blocks[2:]], CHUNK.numbers.start))
    file, end = stored(right), CHUNK.head_bytes
    mixed = file[:end] + stored(turned)[end:]
    assert set(blocks_of(mixed)) == set(list(right)[2:])
    entries = end - 8 * len(CHUNK.numbers)
    swapped = (
        file[:entries] + file[entries + 8 : entries + 16] + file[entries : entries + 8] + mixed[entries + 16 :]
    )
    assert blocks_of(swapped) == {}


@given(chunk=CHUNKS)
def test_a_key_is_parsed_to_its_chunk(chunk: Chunk) -> None:
    """A chunk is parsed from its key, with any bytes in its path."""
    assert chunks.parse_key(chunk.key) == chunk


@given(one=CHUNKS, other=CHUNKS)
def test_two_chunks_have_two_keys(one: Chunk, other: Chunk) -> None:
    """No path with numbers and spaces gives two chunks the same key."""
    assert (one.key == other.key) is (one == other)


@given(numbers=st.sets(st.integers(0, 200)), block_bytes=SIZES)
def test_numbers_are_split_by_chunk(numbers: set[int], block_bytes: int) -> None:
    """Each number comes once, in its chunk, and each chunk comes once."""
    parts = chunks.split(sorted(numbers), block_bytes)
    assert [number for _, inside in parts for number in inside] == sorted(numbers)
    assert len({chunk for chunk, _ in parts}) == len(parts)
    for chunk, inside in parts:
        assert set(inside) <= set(Chunk("a", block_bytes, FILE, chunk).numbers)


@given(size=st.integers(1, 1 << 21), number=st.integers(0, 3), count=st.integers(1, 8))
def test_a_chunk_is_complete_with_all_blocks_of_its_file(size: int, number: int, count: int) -> None:
    """The last chunk of a file is complete with fewer blocks."""
    chunk = Chunk("a", BLOCK_BYTES, File("10028/a", size, 5), number)
    blocks = dict.fromkeys(list(chunk.numbers)[:count], b"")
    there = [one for one in chunk.numbers if one * BLOCK_BYTES < size]
    if there:
        assert chunk.is_complete(blocks) is (len(blocks) >= len(there))


@given(sizes=st.lists(st.just(BLOCK_BYTES), max_size=7), last=st.integers(1, BLOCK_BYTES))
def test_the_blocks_of_a_chunk_are_counted_by_its_size(sizes: list[int], last: int) -> None:
    """The size of a chunk file gives its number of blocks, all full but the last of the file."""
    size = CHUNK.head_bytes + sum(sizes)
    assert chunks.block_count(CHUNK, size) == len(sizes)
    assert chunks.block_count(CHUNK, size + last) == len(sizes) + 1
    assert chunks.block_count(CHUNK, 0) == 0
