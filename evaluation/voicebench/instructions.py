"""The 25 kinds of instruction of IFEval, each a check of an answer.

Written from the rules of IFEval (arXiv 2311.07911) as its official scorer applies them. A check takes the answer and
the instruction's own arguments, by their names in the data. Languages are told by langdetect, capital words and
sentences cut by nltk, as the official scorer has it; see `sentences` for the one thing that needs a download there.
"""

import collections
import functools
import json
import re
from collections.abc import Callable

try:
    import langdetect
    import nltk
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
except ImportError:
    raise ImportError("IFEval needs langdetect and nltk: pip install -e '.[voicebench]'") from None

ABBREVIATIONS = (
    "mr mrs ms dr prof sr jr st mt vs etc e.g i.e a.m p.m u.s u.k u.n inc ltd co corp vol col lt capt sgt "
    "rev hon gov sen rep jan feb apr aug sept oct nov dec approx ph.d b.a m.a"
)
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")
WORD_ENDS = frozenset(".,?!'\"")

langdetect.DetectorFactory.seed = 0  # it draws at random otherwise


def language_of(text: str) -> str | None:
    """ISO 639-1 code; None where the text has nothing to tell it by."""
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


@functools.cache
def sentences() -> Callable[[str], list[str]]:
    """Cuts text into sentences: with nltk's trained English model where that is installed, as the official scorer does,
    else by the same rules and the abbreviations above."""
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        known = PunktParameters()
        known.abbrev_types = set(ABBREVIATIONS.split())
        return PunktSentenceTokenizer(known).tokenize
    return functools.partial(nltk.sent_tokenize, language="english")


def compares(count: int, relation: str, wanted: int) -> bool:
    """Raises ValueError: a relation that IFEval does not have."""
    if relation not in ("less than", "at least"):
        raise ValueError(f"relation={relation!r}: IFEval knows `less than` and `at least`")
    return count < wanted if relation == "less than" else count >= wanted


# ---- words


def existence(text: str, keywords: list[str]) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in keywords)


def frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compares(len(re.findall(keyword, text, re.IGNORECASE)), relation, frequency)


def forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compares(collections.Counter(text.lower())[letter.lower()], let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    return language_of(text) in (None, language)


# ---- lengths


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compares(len(sentences()(text)), relation, num_sentences)


def number_words(text: str, num_words: int, relation: str) -> bool:
    return compares(len(re.findall(r"\w+", text)), relation, num_words)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Cut by `***`; empty ones count nowhere but spoil the middle."""
    filled = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(filled[1:-1]) and sum(filled) == num_paragraphs


def nth_paragraph_first_word(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """Cut by empty lines; the n-th is counted with the empty ones, their number without them."""
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if not 1 <= nth_paragraph <= count or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    end = next((i for i, letter in enumerate(word) if letter in WORD_ENDS), len(word))
    return count == num_paragraphs and word[:end].lower() == first_word.lower()


# ---- content and format


def number_placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s.*$", "P.S.": r"p\.\s?s\..*$"}
    pattern = known.get(postscript_marker, postscript_marker.lower() + ".*$")
    return bool(re.search(rf"\s*{pattern}", text.lower(), re.MULTILINE))


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(option in text for option in CONSTRAINED)


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n\*]*\*\*", text) if part[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{section_spliter}\s?\d+\s?", text)) >= num_sections


def json_format(text: str) -> bool:
    text = text.strip()
    for fence in FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def title(text: str) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


# ---- combinations, beginning and end, case, punctuation


def two_responses(text: str) -> bool:
    """Cut by `******`; empty ones are allowed at both ends."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    parts = [
        part for sentence in sentences()(text) for part in NLTKWordTokenizer().tokenize(sentence)
    ]
    return compares(sum(part.isupper() for part in parts), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and language_of(text) in (None, "en")


def english_lowercase(text: str) -> bool:
    return text.islower() and language_of(text) in (None, "en")


def no_comma(text: str) -> bool:
    return "," not in text


GROUPS: dict[str, tuple[Callable[..., bool], ...]] = {
    "keywords": (existence, frequency, forbidden_words, letter_frequency),
    "language": (response_language,),
    "length_constraints": (number_sentences, number_paragraphs, number_words, nth_paragraph_first_word),
    "detectable_content": (number_placeholders, postscript),
    "detectable_format": (
        number_bullet_lists, constrained_response, number_highlighted_sections, multiple_sections, json_format, title,
    ),
    "combination": (two_responses, repeat_prompt),
    "startend": (end_checker, quotation),
    "change_case": (capital_word_frequency, english_capital, english_lowercase),
    "punctuation": (no_comma,),
}  # fmt: skip
CHECKS = {
    f"{group}:{check.__name__}": check for group, checks in GROUPS.items() for check in checks
}
"""By the kind's name in the data."""
