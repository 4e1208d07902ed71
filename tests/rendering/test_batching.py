"""Batch sizes: grown where memory suffices and it pays, halved where not."""

import pytest
import torch

from studio.rendering.batching import BatchSize, Memory, cores, free_bytes, is_out_of_memory, parts

GIB = 2**30


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_means_out_of_memory(error, says):
    assert is_out_of_memory(error) is says


def test_a_real_one_is_recognised():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_parts_are_powers_of_two():
    assert parts(0) == [] and parts(1) == [1] and parts(8) == [8] and parts(13) == [8, 4, 1]


def test_it_grows_while_it_pays():
    size = BatchSize(64)
    for expected, seconds in ((1, 1.0), (2, 1.2), (4, 1.6), (8, 3.2)):
        assert size.size == expected
        size.made(expected, seconds, GIB, 1000 * GIB)
    assert size.size == 8, "8 at a time take as long each as 4"
    size.made(8, 0.1, GIB, 1000 * GIB)
    assert size.size == 8


def test_it_grows_while_memory_was_measured_to_suffice():
    size = BatchSize(64, sharers=2)
    for count in (1, 2):
        size.made(count, count * 0.5**count, count * GIB, 20 * GIB)
    # 8 GiB would be at most 0.8 * 20 / 2, 8 jobs would need 8
    assert size.size == 4
    size.made(4, 0.1, 4.1 * GIB, 20 * GIB)
    assert size.size == 4


def test_it_never_exceeds_the_largest():
    size = BatchSize(6)
    for _ in range(5):
        size.made(size.size, 0.001 / size.size, None, None)
    assert size.size == 4


def test_a_rest_tells_nothing():
    size = BatchSize(64)
    size.made(1, 1.0, None, None)
    size.made(1, 1.0, None, None)
    assert size.size == 2


def test_out_of_memory_halves_for_good():
    size = BatchSize(64)
    for count in (1, 2, 4, 8):
        size.made(count, 0.5**count, None, None)
    size.out_of_memory(16)
    assert size.size == 8
    size.out_of_memory(8)
    size.made(4, 1e-9, None, None)
    assert size.size == 4
    size.out_of_memory(1)
    assert size.size == 1


def test_memory_is_measured():
    memory = Memory(torch.device("cpu"))
    free = memory.start()
    if free is None:
        pytest.skip("this system does not tell the peak of a process")
    torch.zeros(64 * 2**20, dtype=torch.uint8)
    assert 60 * 2**20 < memory.peak() < 200 * 2**20
    memory.start()
    assert memory.peak() < 40 * 2**20, "the peak before is forgotten"
    assert 0 < free <= 2**50 and free_bytes() > 0 and cores() >= 1


def test_memory_of_other_devices_is_unknown():
    memory = Memory(torch.device("meta"))
    assert memory.start() is None and memory.peak() is None
