"""Tasksets of the library `verifiers` (`pip install 'thinkery[verifiers]'`), each task judged by its own rewards.

Not handled: tasks that need tools, a container, or a user who opens the conversation; rewards that need a runtime.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from thinkery.core import Message, Score, Task, Turn
from thinkery.errors import InputError
from thinkery.tasks.outside import package

EXAM_SHARE = 0.1
"""The share of a taskset, by a hash of each task, that is the split `test`."""


def taskset_tasks(name: str, split: str, limit: int | None, settings: dict[str, Any]) -> Iterator[Task]:
    """The tasks of an installed taskset, made with its `settings`; the first `limit`, since there may be no end."""
    made = 0
    for task in _taskset(name, settings):
        exam = int(blake2b(task.key.encode(), digest_size=8).hexdigest(), 16) < EXAM_SHARE * 2**64
        if exam == (split != "train"):
            _refuse_unplayable(name, task)
            yield _to_task(name, settings, task)
            made += 1
        if made == limit:
            return


class SingleTurn:
    """A task of a taskset, over after one reply; the reward is the weighted sum of the task's own."""

    def __init__(self, name: str, settings: dict[str, Any], data: dict[str, Any]) -> None:
        vf = package("verifiers.v1")
        kind = vf.task_type(name)
        self._task = kind(kind.data_type().model_validate(data), config=_config(name, settings).task)

    def reply(self, text: str) -> Turn:
        """What the task's rewards make of the answer; ungraded where none of them could be asked."""
        trace = self._trace(text)
        asyncio.run(self._task.score(trace))
        given = {name: reward.value for name, reward in trace.rewards.items() if reward is not None}
        return Turn(Score(trace.reward if given else None, f"rewards of the task: {given}"))

    def _trace(self, text: str) -> Any:
        """The record of a conversation that the task can judge."""
        vf = package("verifiers.v1")
        data = self._task.data
        said = [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else list(data.prompt)
        nodes = [
            vf.MessageNode(message=message, parent=i - 1 if i else None, sampled=i == len(said))
            for i, message in enumerate([*said, vf.AssistantMessage(content=text)])
        ]
        kind = vf.TraceTask(type=type(self._task).__name__, data=data)
        return vf.Trace(task=kind, agent=vf.AgentInfo(config=vf.AgentConfig()), nodes=nodes, is_completed=True, ok=True)


def _taskset(name: str, settings: dict[str, Any]) -> Any:
    return package("verifiers.v1").load_taskset(_config(name, settings))


def _config(name: str, settings: dict[str, Any]) -> Any:
    vf = package("verifiers.v1")
    try:
        return vf.taskset_config_type(name)(id=name, **settings)
    except (ModuleNotFoundError, AttributeError, TypeError, ValueError) as error:
        hint = "install the taskset, and check its settings"
        raise InputError("no such taskset", where="verifiers", found=f"{name}: {error}", hint=hint) from error


def _refuse_unplayable(name: str, task: Any) -> None:
    if task.NEEDS_CONTAINER or type(task).toolsets(task.config) or not task.data.prompt:
        hint = "only tasks that one reply answers can be trained on"
        found = "tools, a container, or no prompt"
        raise InputError("the taskset needs more than text", where=f"verifiers:{name}", found=found, hint=hint)


def _to_task(name: str, settings: dict[str, Any], task: Any) -> Task:
    data = task.data
    system = [Message("system", data.system_prompt)] if data.system_prompt else []
    said = [] if isinstance(data.prompt, str) else [Message(one.role, _text(one)) for one in data.prompt]
    prompt = data.prompt if isinstance(data.prompt, str) else said.pop().content
    how = {"library": "verifiers", "name": name, "settings": settings, "data": data.model_dump(mode="json")}
    return Task(
        f"{name}/{data.id or data.idx}",
        prompt,
        "environment",
        source=name,
        history=(*system, *said),
        info={"environment": how},
    )


def _text(message: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    return message.content if isinstance(message.content, str) else "\n".join(part.text for part in message.content)
