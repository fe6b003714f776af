"""The English the caption tokeniser knows by heart: abbreviations, odd apostrophes, spellings. Data, no rules."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Keep their dot wherever they stand.
ABBREVIATIONS = _words("""
    adm al ala alex apr ariz assn assoc asst atty aug ave bldg blvd brig bros calif capt cf cie cmdr co col colo comdr
    conn corp cos cpl ct dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov hon inc ind insp intl
    jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt
    natl neb nev nov oct okla penn ph plc pres prof profs pte pty pvt rd rep reps rev rt sen sens sep sept seq sgt sq sr
    st ste supt tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
""")
# Words too, so only with a capital.
STATES = _words("ark az del ill la mass miss ore pa tex wash")
# Words too, so only before a number: "no. 5".
NUMBERED = _words("art ca fig figs no nos op pp prop")
# Words that open a sentence: before them the dot of "the letter K. The man" is a full stop.
OPENERS = _words("""
    A The In An At It That Some While There Other Her One Their As Many This About He They After She What These But If
    We You So Here More Such When Now Yet Then Last Once Our
""")
# One word of two: "can" + "not".
MERGED = {"can": "not", "gon": "na", "got": "ta", "wan": "na", "gim": "me", "lem": "me"}
# Words with an apostrophe that no rule explains.
WITH_APOSTROPHE = _words("""
    cap'n c'mon s'mores nor'easter li'l nat'l ev'ry ol' dunkin' somethin' 'em 'till 'til 'cause
""")
# How the reference spells what it keeps.
SPELT = {
    "(": "-lrb-", ")": "-rrb-",
    "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "¢": "cents", "£": "#", "¤": "$", "\u20a0": "$", "€": "$",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    "&lt;": "<", "&gt;": ">",
}  # fmt: skip
# Entities that are characters, and the typographic characters of Windows-1252 under their old numbers.
WRITTEN_OUT = {
    "&amp;": "&", "&AMP;": "&", "&apos;": "'", "&quot;": '"', "&nbsp;": " ", "&ndash;": "–", "&mdash;": "—",
    "\x80": "€", "\x85": "…", "\x91": "‘", "\x92": "’", "\x93": "“", "\x94": "”", "\x96": "–", "\x97": "—",
    "\u00ad": "",
}  # fmt: skip
