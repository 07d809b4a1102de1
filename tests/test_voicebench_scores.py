"""VoiceBench's scorers on answers made by hand, the odd readings of the official ones included."""

import json

import pytest

from evaluation.voicebench import bbh, judge, mcq, qa, score
from evaluation.voicebench.harm import refuses
from evaluation.voicebench.ifeval import accuracies, followed, loose_variants
from evaluation.voicebench.instructions import CHECKS
from evaluation.voicebench.phrases import guess
from evaluation.voicebench.responses import Response
from evaluation.voicebench.subsets import LEADERBOARD, SUBSETS, embedded_items, parse_subsets


def response(text: str, name: str = "test/0", **fields: object) -> Response:
    return Response(name, fields, text)


# ---- multiple choice


@pytest.mark.parametrize(
    ("text", "official", "stated"),
    [
        ("B", "B", "B"), ("(B)", "B", "B"), ("B)", "B", "B"), ("b.", "B", "B"), ("The answer is B.", "B", "B"),
        ("Answer: D.", "D", "D"), ("Answer: D", None, "D"), ("I think it is b", None, "B"), ("", None, None),
        ("The answer is a dog.", "A", None), ("A dog barks.", None, None), ("Option B", None, "B"),
        ("**C**", None, "C"), ("The correct answer is (D)", "D", "D"), ("Either A or B.", "B", None),
        ("I choose C, since A is not right", "C", "C"), ("<1> C. water", "C", "C"), ("答案选c", "C", None),
        ("It would be a.", "A", "A"), ("None of these fits", None, None), ("Option A is wrong, so it's d.", "D", "D"),
    ],
)  # fmt: skip
def test_letters(text, official, stated):
    assert mcq.official_letter(text) == official
    assert mcq.stated_letter(text) == stated


def test_an_unread_letter_is_guessed_in_one_column_and_wrong_in_the_other():
    many = [response("none", f"test/{i}", reference="ABCD"[i % 4]) for i in range(400)]
    found = score.score_choices(many)
    assert found == score.score_choices(many[::-1]) and found.parse_failure_rate == 1
    assert found.official is not None and 15 < found.official < 35 and found.strict == 0
    assert guess("ABCD", "one") == guess("ABCD", "one")


# ---- BIG-Bench Hard


@pytest.mark.parametrize(
    ("task", "text", "official", "stated"),
    [
        ("hyperbaton", "a", 0, 0), ("hyperbaton", "b", 0, 1), ("hyperbaton", "B.", 0, 1),
        ("hyperbaton", "(b)", None, 1),
        ("hyperbaton", "Option B", None, 1), ("hyperbaton", "The answer is (B).", 1, 1),
        ("hyperbaton", "Option A is incorrect and option B is correct.", 1, 1), ("hyperbaton", "B) red box", 1, 1),
        ("hyperbaton", "The correct adjective order is in the second option", 1, None),
        ("sports_understanding", 'The sentence "He dunked" is not plausible.', 1, 0),
        ("sports_understanding", "The sentence is not plausible.", 0, 0), ("sports_understanding", "Yes.", 1, 1),
        ("sports_understanding", "It is unlikely.", None, 0), ("sports_understanding", "Not plausible", 0, 0),
        ("sports_understanding", "Nobody plays like this", 0, None), ("sports_understanding", "", None, None),
        ("sports_understanding", r"The answer is \boxed{yes}", 1, 1),
        ("navigate", "You haven't returned to the starting point.", None, 0), ("navigate", "North it is", 0, None),
        ("navigate", "You return to the starting point.", 1, 1), ("navigate", "Then the answer is no.", 0, 0),
        ("navigate", "You are not back at the starting point", 0, 0),
        ("navigate", "Up and away, perhaps", None, None),
        ("web_of_lies", "Ann must be lying.", 1, 0), ("web_of_lies", "The answer is that Ann lies", 0, 0),
        ("web_of_lies", "Ann tells the truth.", 1, 1), ("web_of_lies", "She does not tell the truth", 0, 0),
        ("web_of_lies", "She doesn't lie, as I see it; yes", 1, 1), ("web_of_lies", "Hmm", None, None),
    ],
)  # fmt: skip
def test_tasks(task, text, official, stated):
    assert bbh.official_answer(text, task) == official
    assert bbh.stated_answer(text, task) == stated


def test_tasks_are_known_by_the_id():
    right = [
        response("Yes", id="navigate_3", reference="yes"),
        response("b", id="hyperbaton_1", reference="(B)"),
    ]
    found = score.score_tasks(right)
    assert (found.official, found.strict, found.parse_failure_rate) == (50, 100, 0)
    with pytest.raises(ValueError, match="no task of bbh"):
        bbh.task_of("word_sorting_2")


# ---- IFEval


@pytest.mark.parametrize(
    ("kind", "given", "text", "follows"),
    [
        ("keywords:existence", {"keywords": ["bee", "sea"]}, "Bees at the SEA", True),
        ("keywords:existence", {"keywords": ["bee", "sea"]}, "Bees", False),
        ("keywords:frequency", {"keyword": "be", "frequency": 2, "relation": "at least"}, "be a bee", True),
        ("keywords:frequency", {"keyword": "be", "frequency": 2, "relation": "less than"}, "be a bee", False),
        ("keywords:forbidden_words", {"forbidden_words": ["bee"]}, "bees", True),
        ("keywords:forbidden_words", {"forbidden_words": ["bee"]}, "a Bee!", False),
        ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "Eve", True),
        ("keywords:letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, "Eve", False),
        ("language:response_language", {"language": "de"}, "Das ist ein schöner Tag am Meer.", True),
        ("language:response_language", {"language": "de"}, "This is a fine day at the sea.", False),
        ("language:response_language", {"language": "de"}, "123", True),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}, "Dr. Ray. Why?", True),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}, "One. Two! Three?", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\none\n***\ntwo\n***", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\n\n***\ntwo", False),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "it's two", True),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "it's two", False),
        ("length_constraints:nth_paragraph_first_word",
         {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Well"}, "one\n\n\"well, two", True),
        ("length_constraints:nth_paragraph_first_word",
         {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "well"}, "one\n\nwell", False),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", True),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name]", False),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\np. s. more", True),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.S. more", False),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n** two\n", False),
        ("detectable_format:constrained_response", {}, "My answer is maybe.", True),
        ("detectable_format:constrained_response", {}, "Maybe.", False),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "a *high* light", True),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "a ** ** light", False),
        ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2},
         "Part 1 a Part 2", True),
        ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 a", False),
        ("detectable_format:json_format", {}, "```json\n{\"a\": 1}\n```", True),
        ("detectable_format:json_format", {}, "{a: 1}", False),
        ("detectable_format:title", {}, "<<The Sea>>\nwaves", True), ("detectable_format:title", {}, "<< >>", False),
        ("combination:two_responses", {}, "one ****** two", True),
        ("combination:two_responses", {}, "one ****** one", False),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it "}, "say it. It", True),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it"}, "It", False),
        ("startend:end_checker", {"end_phrase": "Is that all?"}, 'Yes. "is that all?"', True),
        ("startend:end_checker", {"end_phrase": "Is that all?"}, "Is that all? No", False),
        ("startend:quotation", {}, ' "so" ', True), ("startend:quotation", {}, '"', False),
        ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"},
         "DON'T go UP", True),
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"},
         "GO UP", False),
        ("change_case:english_capital", {}, "THIS IS A FINE DAY AT THE SEA", True),
        ("change_case:english_capital", {}, "This is a fine day", False),
        ("change_case:english_lowercase", {}, "this is a fine day at the sea", True),
        ("change_case:english_lowercase", {}, "das ist ein schöner tag am meer", False),
        ("punctuation:no_comma", {}, "one two", True), ("punctuation:no_comma", {}, "one, two", False),
    ],
)  # fmt: skip
def test_instructions(kind, given, text, follows):
    assert CHECKS[kind](text, **given) is follows
    assert followed(text, [kind], [{**given, "nothing": None}]).strict == [follows]


def test_every_kind_has_a_case():
    [cases] = [mark.args[1] for mark in test_instructions.pytestmark]
    assert {case[0] for case in cases} == set(CHECKS) and len(CHECKS) == 25


def test_strict_and_loose_accuracies():
    comma, capital = "punctuation:no_comma", "detectable_format:title"
    one = followed("Sure, here:\n<<Sea>>", [comma, capital], [{}, {}])
    two = followed("", [comma], [{}])
    assert one == ([False, True], [True, True]) and two == ([False], [False])
    assert accuracies([one, two]) == {
        "strict_prompt": 0, "strict_instruction": pytest.approx(1 / 3), "loose_prompt": 0.5,
        "loose_instruction": pytest.approx(2 / 3),
    }  # fmt: skip
    assert loose_variants("a*\nb\nc") == [
        "a*\nb\nc",
        "b\nc",
        "a*\nb",
        "b",
        "a\nb\nc",
        "b\nc",
        "a\nb",
        "b",
    ]


@pytest.mark.parametrize(
    ("kinds", "given", "says"),
    [
        (["keywords:rhyme"], [{}], "no instruction of IFEval"), (["keywords:existence"], [{}], "needs keywords"),
        (["startend:quotation"], [], "one for each"), (["keywords:existence"], ["{}"], "no attribute"),
        (["keywords:existence"], [{"keywords": ["a("]}], "missing )"),
        (["length_constraints:number_words"], [{"num_words": 1, "relation": "about"}], "at least"),
    ],
)  # fmt: skip
def test_instructions_that_are_none(kinds, given, says):
    assert says in score.check("ifeval", response("words", instruction_id_list=kinds, kwargs=given))


# ---- harm


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("I'm sorry, no.", 100, 100),
        ("Sure: first", 0, 0),
        ("", 100, 0),
        ("i cannot", 0, 0),
        ("That is illegal", 100, 100),
    ],
)
def test_refusals(text, official, strict):
    found = score.score_refusals([response(text)])
    assert (found.official, found.strict) == (official, strict)
    assert refuses(text) is bool(strict)


# ---- what a judge says


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("4", 4),
        (" 3.5 ", 3.5),
        ("[[5]]", 5),
        ("6", None),
        ("0", None),
        ("four", None),
        ("Score: 4", None),
        ("nan", None),
    ],
)
def test_ratings(reply, rating):
    assert judge.rating(reply) == rating


@pytest.mark.parametrize(
    ("replies", "official", "stated"),
    [
        (["Yes", "yes", "No"], True, True), (["Yes.", "Yes.", "yes"], False, True), (["No", "no", "Yes"], False, False),
        (["Yes", "Yes.", "No"], True, True),
    ],
)  # fmt: skip
def test_majorities(replies, official, stated):
    assert qa.official_majority(replies) is official and qa.stated_majority(replies) is stated


def test_open_answers_are_the_mean_of_all_ratings():
    some = [response("well", "a"), response(" ", "b")]
    assert score.score_ratings(
        some, {"a": ["4", "5", "3"], "b": ["2", "2", "2"]}
    ) == score.SubsetScores(3, 2.5, 0)
    partly = score.score_ratings(some, {"a": ["4", "5", "3"], "b": ["2"]})
    assert partly.official is None and partly.parse_failure_rate == pytest.approx(1 / 3)
    assert score.score_ratings(some, None) == score.SubsetScores()


def test_spoken_questions_need_both_halves():
    some = [response("Paris", "a", reference="Paris"), response("", "b", reference="Rome")]
    replies = {"a": ["Yes"] * 3, "b": ["Yes."] * 3}
    both = score.score_answers(some, replies, lambda r: r.text == r.fields["reference"])
    assert (both.official, both.strict) == (50, 50) and both.parts == {"panda": 50, "gpt": 50}
    assert score.score_answers(some, replies, None) == score.SubsetScores(
        None, None, 0, {"panda": None, "gpt": 50}
    )
    assert score.score_answers(some, None, None).parts == {"panda": None, "gpt": None}


# ---- the whole


def test_overall_is_the_leaderboards():
    """The leaderboard's row of Qwen2-Audio."""
    row = {
        "alpacaeval_full": 3.74, "commoneval": 3.43, "wildvoice": 3.01, "sd-qa": 35.71, "mmsu": 35.72,
        "openbookqa": 49.45, "bbh": 54.70, "ifeval": 26.33, "advbench": 96.73,
    }  # fmt: skip
    assert score.overall(row) == pytest.approx(55.80, abs=0.01)
    assert score.overall({**row, "bbh": None}) is None


def test_embedded_items_have_what_their_scorers_need():
    assert sum(LEADERBOARD["mmsu"].splits.values()) == 3074 and len(LEADERBOARD) == 9
    for name, subset in SUBSETS.items():
        for item in embedded_items(name):
            assert all(item.fields.get(field) is not None for field in ("prompt", *subset.needs)), (
                item
            )
            assert score.check(subset.scorer, Response(item.name, item.fields, "words")) == ""
            json.dumps(item.fields)
    with pytest.raises(ValueError, match="no 'mmlu'"):
        parse_subsets("bbh,mmlu")
