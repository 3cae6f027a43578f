"""What several test modules use."""

from mlp_workload.run.session import Run


def train_with(framework, config, output=None, checkpoint_every=1000, resume=False):
    """Trains as both `train.py` do, with the trainers of `framework`; returns the summary."""
    with Run(config, output, checkpoint_every, resume) as run:
        trainer = run.prepare(framework(config))
        for part in run.parts():
            run.trained(trainer.train_steps(part.order, part.first, part.last))
            if part.ends_epoch:
                run.evaluated(trainer.evaluate())
        run.finish()
    return run.summary
