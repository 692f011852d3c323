"""A local model never asks the network, whatever is done with it."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach an address, or to ask for one, is noted and fails."""
    asked = []

    def refuse(*arguments, **named):
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return asked


@pytest.mark.parametrize("use_lora", [False, True])
def test_training_saving_and_exporting_a_local_model_stay_local(make_trainer, no_network, use_lora):
    trainer = make_trainer(use_lora=use_lora, save_steps=2)
    trainer.train()
    trainer.save_model(format="hf")
    trainer.save_model(format="faiss")
    assert no_network == []
