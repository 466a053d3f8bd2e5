"""The words of the toy models, and a tokenizer that reads one word as one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAD, BOS, UNK = "<pad>", "<bos>", "<unk>"
_SPACE = "\u2581"  # what stands for a word's leading space, as sentencepiece has it

COMMON_WORDS = """
    able above acid act add age air all among and anger angle animal ant apple april arch arm army art ash aunt autumn
    away baby back bad bag ball band bank bar base basin bath bean bear bed bee bell belt berry big bird bite black
    blade blood blow blue board boat body bone book boot bottle bowl box boy brain branch brass bread breath brick
    bridge bright broom brother brown brush bucket bulb burn bus butter button cake calm camera canvas card care
    carriage cart cat chain chair chalk chance cheap cheese chest chief child chin church circle city clay clean clear
    clock cloth cloud coal coat cold colour comb cook copper cord cork corn cotton cough country cover cow crack crime
    crown cruel cry cup curtain curve damage danger dark daughter day dead dear debt deep desk dog door doubt drain
    drawer dream dress drink drop dry duck dust ear early earth east edge egg engine eye face fact fall family far
    farm fat father fear feather field finger fire fish flag flame flat floor flower fly fold food foot forest fork
    fowl fox free friend frog front fruit full garden girl glass glove goat gold good grain grass great green grey
    grip group gun hair hammer hand happy harbour hard hat head heart heat high hill history hole hook hope horn horse
    hospital hour house ice idea inch ink insect iron island jelly jewel join journey judge juice jump kettle key kick
    kind king kiss knee knife knot lake lamp land laugh law leaf leather left leg lemon letter level library light
    line lion lip list lock long loud love low lunch machine man map mark market mass mat meal meat metal milk mind
    mine minute mist money monkey month moon morning mother mountain mouth music nail name narrow neck needle nerve
    net new news night noise north nose note number nut oil old on open orange oven owner page pain paint paper park
    party paste peace pen pencil pig pin pipe plane plant plate pocket point poison pot potato powder price print
    prison pull pump push quick quiet rail rain ran rat red rice right ring river road rod roll roof room root rough
    round rule salt sand sat saw school sea seat seed sharp sheep shelf ship shirt shoe short silk silver sister skin
    skirt sky sleep slow small smile smoke snake snow soap sock soft son song soup south spade spoon spring square
    stage stamp star steam steel step stick stone store storm street strong sugar summer sun sweet table tail tall tea
    test the then thick thin thread throat thumb ticket time tin toe tooth town train tray tree trousers uncle valley
    voice wall war warm water wave wax west wet wheel whip white wide wind window wine wing winter wire wise wolf
    woman wood wool word worm yellow young
""".split()  # noqa: SIM905  # as a list literal it would be five hundred lines


def word_tokenizer(words: Sequence[str]) -> Any:
    """Return a transformers tokenizer of `words`, which come after ``<pad>``, ``<bos>`` and ``<unk>``.

    Upper and lower case are one, so are ``"dog"`` and ``" dog"``; punctuation is read with or without a space before
    it, and written without. BOS serves as EOS too.

    Examples
    --------
    >>> tokenizer = word_tokenizer(["the", "cat", "sat", "."])
    >>> tokenizer("The cat sat.")["input_ids"]
    [3, 4, 5, 6]
    >>> tokenizer.decode([3, 4, 5, 6])
    'the cat sat.'
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [PAD, BOS, UNK, *(_SPACE + word if word.isalnum() else word for word in words)]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s*\b(?=\w)"), _SPACE)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{_SPACE}\w+|[^\w\s{_SPACE}]"), "removed", invert=True)
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=BOS, unk_token=UNK
    )
