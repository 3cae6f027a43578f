"""A side of the lockstep in this process."""

from mlp_compare.worker import Worker


class InProcess:
    """`Side` without the process."""

    def __init__(self, name):
        self.name, self._worker, self._answers = name, Worker(name), []

    def ask(self, method, *arguments):
        self._answers.append(getattr(self._worker, method)(*arguments))

    def answer(self):
        return self._answers.pop(0)

    def do(self, method, *arguments):
        self.ask(method, *arguments)
        return self.answer()
