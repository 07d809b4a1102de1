"""`python -m lightning_modules.trainer`, the command by which prerequisite stages are trained."""

from lightning_modules.trainer.train import argument_parser, run_command

if __name__ == "__main__":
    parsed = argument_parser(__doc__).parse_intermixed_args()
    run_command(parsed.args, parsed.only_stage)
