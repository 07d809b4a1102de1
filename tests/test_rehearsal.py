"""Earlier name of `tests.test_branch_targets`."""

from tests.test_branch_targets import SCRIPTS as SCRIPTS
from tests.test_branch_targets import Answers as Answers
from tests.test_branch_targets import dialogue_of as dialogue_of
