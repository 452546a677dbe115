"""The meter counts storages that live; the clock adds up stages."""

import time

import torch

from purekv_cli.runtime.metrics import KVMeter, StageClock
from tests.runtime.tiny import DEVICE


def test_live_bytes_follow_the_tensors() -> None:
    meter = KVMeter()
    key, value = torch.zeros(10, 4), torch.zeros(10, 4)
    meter.watch(key, value)
    meter.watch(key)
    assert meter.live() == meter.peak == 320
    del value
    assert meter.live() == 160
    other = torch.zeros(5)
    meter.watch(other, None)
    assert meter.live() == 180
    assert meter.peak == 320


def test_views_share_a_storage_and_keep_it_alive() -> None:
    meter = KVMeter()
    key = torch.zeros(10, 4)
    tail = key[5:]
    meter.watch(key, tail)
    assert meter.live() == 160
    del key
    assert meter.live() == 160


def test_stages_add_up() -> None:
    clock = StageClock(DEVICE)
    for _ in range(2):
        with clock.stage("a"):
            time.sleep(0.01)
            with clock.part("b"):
                time.sleep(0.005)
    assert clock.seconds("a") >= 0.02
    assert clock.seconds("b") >= (0.01 if DEVICE.type == "cpu" else 0)
    assert clock.seconds("a") > clock.seconds("b")
    assert clock.seconds("never") == 0
