import os
import signal

import pytest

from trainer.stopping import StopFlag, StopReason, stop_on_signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_only_sets_the_flag_and_handlers_come_back(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with stop_on_signals() as flag:
        os.kill(os.getpid(), number)
        assert flag.value == StopReason(f"received {name}", True)
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_interrupts_at_once():
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_flag_that_somebody_else_listens_for_is_left_to_them():
    before, given = signal.getsignal(signal.SIGTERM), StopFlag()
    with stop_on_signals(given) as flag:
        assert flag is given
        assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_request_wins():
    flag = StopFlag()
    flag.request("first", resumable=False)
    flag.request("second", resumable=True)
    assert flag.value == ("first", False)
