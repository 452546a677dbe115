"""The many ways a person may word a question about a clip.

Templates per question type with named blanks. The last `HELD_OUT` templates of every type are never used in training,
so that tests can tell whether the model understands wordings or has learnt them by heart. Narration ("what happens?")
has no blanks; its wordings are put together from openings, places and courtesies, several hundred in all.
"""

from __future__ import annotations

import random

HELD_OUT = 2

TEMPLATES: dict[str, tuple[str, ...]] = {
    "number": (
        "which number flashes", "what number is shown", "what is the number", "which number can be seen",
        "read the number", "what number flashes", "which number appears", "what does the number say",
        "which two digit number is shown", "what number do you see",
    ),
    "number_where": (
        "where does the number flash", "where is the number shown", "where is the number",
        "in which place does the number appear", "where can the number be seen", "where on the screen is the number",
        "at which place is the number", "the number is where", "whereabouts is the number",
        "where does the number show up",
        "in which part of the picture is the number", "where do you see the number",
    ),
    "number_when": (
        "when does the number flash", "when is the number shown", "when does the number appear",
        "at what point is the number shown", "when can the number be seen",
        "in which part of the clip does the number flash", "at what point does the number flash",
        "when do you see the number",
    ),
    "number_colour": (
        "what colour is the number", "which colour does the number have", "what is the colour of the number",
        "the number is which colour", "what color is the number", "in which colour is the number shown",
        "tell me the colour of the number", "which colour is the number",
    ),
    "count": (
        "how many {group} are there at the {end}", "how many {group} can be seen at the {end}",
        "count the {group} at the {end}", "at the {end}, how many {group} are there",
        "how many {group} do you see at the {end}", "what is the number of {group} at the {end}",
        "how many {group} are in the picture at the {end}", "at the {end}, how many {group} can you see",
    ),
    "direction": (
        "which way does the {thing} move", "where does the {thing} move", "in which direction does the {thing} move",
        "which direction does the {thing} go", "where does the {thing} go", "what direction does the {thing} move in",
        "which way does the {thing} go", "in what direction does the {thing} go",
    ),
    "recolour_to": (
        "what colour does the {thing} turn", "which colour does the {thing} become", "what does the {thing} turn",
        "what colour does the {thing} change to", "to which colour does the {thing} change",
        "what color does the {thing} turn into", "the {thing} turns which colour", "which colour does the {thing} turn",
    ),
    "recolour_who": (
        "what turns {colour}", "which object turns {colour}", "which thing becomes {colour}",
        "what changes to {colour}", "which object changes its colour to {colour}", "what becomes {colour}",
        "which shape turns {colour}", "which object becomes {colour}",
    ),
    "blink_count": (
        "how many times does the {thing} blink", "how often does the {thing} blink", "count the blinks of the {thing}",
        "how many blinks does the {thing} make", "the {thing} blinks how many times",
        "how often does the {thing} go off and on", "the {thing} blinks how often",
        "how many times do you see the {thing} blink",
    ),
    "first": (
        "what happens first", "what is the first thing that happens", "what happens at first",
        "which event comes first", "what is the first event", "how does it begin", "tell me what happens first",
        "which thing happens first",
    ),
    "last": (
        "what happens last", "what is the last thing that happens", "what happens in the end", "which event comes last",
        "what is the last event", "how does it end", "tell me what happens last", "which thing happens last",
    ),
    "after": (
        "what happens after the {subject} {finite}", "what happens right after the {subject} {finite}",
        "what comes after the {subject} {finite}", "what happens next after the {subject} {finite}",
        "the {subject} {finite}, and then what happens", "what is next after the {subject} {finite}",
        "after the {subject} {finite}, what happens", "once the {subject} {finite}, what happens next",
    ),
    "before": (
        "what happens before the {subject} {finite}", "what happens right before the {subject} {finite}",
        "what comes before the {subject} {finite}", "what happens just before the {subject} {finite}",
        "which event comes before the {subject} {finite}", "what was there before the {subject} {finite}",
        "before the {subject} {finite}, what happens", "what is it that happens before the {subject} {finite}",
    ),
    "when": (
        "when does the {subject} {base}", "at what point does the {subject} {base}",
        "in which part of the clip does the {subject} {base}", "when is it that the {subject} {finite}",
        "at which time does the {subject} {base}", "tell me when the {subject} {finite}",
        "when do you see the {subject} {base}", "at what time does the {subject} {base}",
    ),
    "where": (
        "where is the {thing} at the {end}", "where can the {thing} be seen at the {end}",
        "at the {end}, where is the {thing}", "in which place is the {thing} at the {end}",
        "where on the screen is the {thing} at the {end}", "in which part of the picture is the {thing} at the {end}",
        "where do you see the {thing} at the {end}", "at the {end}, where can the {thing} be seen",
    ),
    "colour_of": (
        "what colour is the {shape}", "which colour does the {shape} have", "what is the colour of the {shape}",
        "what color is the {shape}", "the {shape} is which colour", "tell me the colour of the {shape}",
        "which colour is the {shape}", "the {shape} has which colour",
    ),
    "shape_of": (
        "what shape is the {colour} object", "which shape is {colour}", "what is the {colour} object",
        "what is the shape of the {colour} object", "the {colour} object is what",
        "which shape does the {colour} object have", "what shape is {colour}", "the {colour} thing has which shape",
    ),
    "exists": (
        "is there a {thing}", "can you see a {thing}", "is there a {thing} in the clip", "do you see a {thing}",
        "does the clip show a {thing}", "is a {thing} in the video", "is a {thing} shown", "can a {thing} be seen",
    ),
    "happened": (
        "does the {subject} {base}", "does the {subject} {base} in the clip", "do you see the {subject} {base}",
        "is it true that the {subject} {finite}", "can you see the {subject} {base}", "did the {subject} {base}",
        "does it happen that the {subject} {finite}", "does the video show the {subject} {base}",
    ),
    "collision": (
        "what does the {thing} hit", "what does the {thing} bump into", "which object does the {thing} hit",
        "the {thing} hits what", "which object does the {thing} bump into", "what is hit by the {thing}",
        "the {thing} bumps into what", "which thing does the {thing} hit",
    ),
    "event_count": (
        "how many things happen", "how many events are there", "how many events happen", "count the events",
        "how many events can be seen", "how many things take place", "how many events in total",
        "how many things occur",
        "how many events does the clip have", "how many times does something happen", "tell me how many things happen",
        "how much happens", "what is the number of events", "how many events do you see",
        "how many things happen in all",
    ),
    "order": (
        "which comes first: the {subject} {finite} or the {subject2} {finite2}",
        "what happens first, the {subject} {finite} or the {subject2} {finite2}",
        "which is first, the {subject} {finite} or the {subject2} {finite2}",
        "what comes earlier, the {subject} {finite} or the {subject2} {finite2}",
        "what is first: the {subject} {finite} or the {subject2} {finite2}",
        "which happens earlier, the {subject} {finite} or the {subject2} {finite2}",
        "what comes first, the {subject} {finite} or the {subject2} {finite2}",
        "which is earlier, the {subject} {finite} or the {subject2} {finite2}",
    ),
    "actor": (
        "what {finite}", "which object {finite}", "which thing {finite}", "what is it that {finite}",
        "which shape {finite}", "tell me what {finite}", "what do you see that {finite}",
        "what is the object that {finite}",
    ),
    "unknown": (
        "what does the {noun} do", "where is the {noun}", "what colour is the {noun}", "when does the {noun} appear",
        "where does the {noun} go", "who is the {noun}", "how old is the {noun}", "what is the {noun} wearing",
        "what is in the {noun}", "what happens after the {noun} moves", "what is the {noun}", "which {noun} is it",
        "what kind of {noun} is there", "how big is the {noun}", "does the {noun} move", "is the {noun} blue",
        "how many {noun}s are there", "what happens to the {noun}", "why does the {noun} move",
        "which way does the {noun} go", "what is the {noun} doing", "what is the name of the {noun}",
    ),
}  # fmt: skip

#: things that no clip shows; the last twenty are never named in training
FOREIGN_NOUNS = (
    "man", "woman", "person", "dog", "cat", "car", "boy", "girl", "bird", "child", "horse", "tree", "house", "ball",
    "bus", "bike", "phone", "table", "chair", "door", "window", "player", "team", "goal", "plane", "train", "boat",
    "truck", "road", "river", "mountain", "flower", "fish", "cow", "sheep", "lion", "bear", "rabbit", "mouse", "monkey",
    "snake", "baby", "teacher", "doctor", "driver", "actor", "singer", "cook", "dancer", "king", "queen", "robot",
    "camera", "computer", "book", "cup", "bottle", "bag", "hat", "shirt", "shoe", "box", "bed", "lamp", "clock",
    "knife", "fork", "apple", "banana", "cake", "bread", "egg", "pizza", "guitar", "piano", "drum", "building",
    "street", "bridge", "park", "beach", "sky", "sun", "moon", "cloud", "snow", "rain", "fire", "water", "wheel",
    "engine", "rocket", "ship", "ghost", "elephant", "tiger", "zebra", "kitchen", "laptop", "sword", "balloon",
    "umbrella", "ladder", "helmet", "turtle", "spider", "garden", "airport", "violin", "candle", "bucket", "mirror",
    "wallet",
)  # fmt: skip

_OPENINGS = (
    "what happens", "what is happening", "what's happening", "whats happening", "what happened", "what is going on",
    "what's going on", "whats going on", "what goes on", "what do you see", "what can you see", "what can be seen",
    "what is shown", "what does it show", "what takes place", "what is it about", "what is this",
    "tell me what happens", "tell me what is going on", "tell me what you see", "describe what happens",
    "describe what you see", "describe it", "describe", "explain what happens", "explain", "summarise what happens",
    "summarize what happens", "summarise", "summarize", "summary", "give me a summary", "give a description", "narrate",
    "narrate what happens", "list what happens", "list all events", "list the events", "which events are there",
    "what are the events", "name all events", "what things happen", "what all happens", "what events happen",
    "say what happens", "write down what happens", "walk me through", "can you tell me what happens",
    "can you describe what happens", "could you describe what you see", "please describe what is going on",
    "i want to know what happens", "i would like to know what is going on", "so what happens", "and what happens",
    "ok what happens", "report what happens", "caption", "caption this", "write a caption", "tell the story",
    "what is the story", "what would you say happens", "describe the action", "describe the scene",
    "what action takes place", "tell me everything", "tell me about", "what does one see",
)  # fmt: skip
OPENINGS_HELD_OUT = (
    "what do we see happening", "give me a short description", "please explain what is happening", "what is the plot",
    "could you summarise", "what did you see", "tell me the events", "what occurs",
)  # fmt: skip
_PLACES = (
    "", "", "", "", "in the video", "in this video", "in the clip", "in this clip", "here", "on the screen",
    "in the film", "in the movie", "in it", "in this one", "in the footage", "in the recording", "from start to end",
    "from beginning to end", "in order", "step by step", "in one sentence", "in the scene", "the video", "this video",
    "the clip", "this clip", "in detail", "briefly", "during the clip", "over time",
)  # fmt: skip
_COURTESIES = (
    "hi", "hello", "hey", "please", "thanks", "thank you", "now", "ok", "well", "so", "and", "look", "tell me",
)  # fmt: skip

#: everyday words strewn into narration questions, so that an unknown word does not throw the model off
_STRAY_WORDS = (
    "the", "a", "an", "of", "to", "and", "in", "is", "it", "you", "that", "he", "was", "for", "on", "are", "with", "as",
    "i", "his", "they", "be", "at", "have", "this", "from", "or", "had", "by", "but", "some", "what", "there", "we",
    "can", "out", "other", "were", "all", "your", "when", "up", "use", "word", "how", "said", "each", "she", "which",
    "do", "their", "time", "if", "will", "way", "about", "many", "them", "would", "write", "like", "so", "these", "her",
    "long", "make", "thing", "see", "him", "has", "look", "more", "day", "could", "go", "come", "did", "my", "sound",
    "no", "most", "who", "over", "know", "than", "call", "people", "may", "down", "been", "now", "find", "any", "new",
    "work", "part", "take", "get", "place", "made", "where", "back", "little", "only", "round", "year", "came", "show",
    "every", "good", "me", "give", "our", "under", "name", "very", "through", "just", "form", "much", "great", "think",
    "say", "help", "low", "line", "cause", "same", "mean", "differ", "right", "old", "too", "does", "sentence", "set",
    "want", "air", "well", "also", "play", "small", "put", "home", "read", "hand", "large", "quickly", "really",
    "exactly", "actually", "shortly", "main", "whole", "full", "clearly", "maybe", "quite", "anything", "everything",
    "something", "events", "interesting", "watch", "watching", "seen", "view", "viewer", "attached", "following",
    "uploaded", "entire", "important", "content", "contents", "frame", "frames",
)  # fmt: skip


def templates(question_type: str, held_out: bool) -> tuple[str, ...]:
    """The wordings of a type that training uses, or those kept from it."""
    every = TEMPLATES[question_type]
    return every[-HELD_OUT:] if held_out else every[:-HELD_OUT]


_ONSETS, _VOWELS = (
    (
        "b",
        "br",
        "c",
        "ch",
        "d",
        "f",
        "fl",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "pl",
        "r",
        "s",
        "sh",
        "sl",
        "sp",
        "st",
        "t",
        "th",
        "tr",
        "v",
        "w",
        "z",
    ),
    "aeiou",
)
_CODAS = ("", "", "l", "m", "n", "r", "s", "ck", "ng", "nt", "p", "rd", "st", "t")


def made_up(rng: random.Random) -> str:
    """A noun that no dictionary has, so that any unknown noun is met as one (training only)."""
    syllable = "".join((rng.choice(_ONSETS), rng.choice(_VOWELS), rng.choice(_CODAS)))
    return syllable + "".join((rng.choice(_ONSETS), rng.choice(_VOWELS), rng.choice(_CODAS))) * (rng.random() < 0.7)


def nouns(held_out: bool) -> tuple[str, ...]:
    return FOREIGN_NOUNS[-20:] if held_out else FOREIGN_NOUNS[:-20]


#: the plainest wordings, asked so often that they deserve a share of their own: beside "what happens first" and "what
#: happens after ..." the bare "what happens" would otherwise be too rare to be told apart
_PLAIN = (
    "what happens", "what happens", "what happens in the video", "what happens in this video",
    "what happens in the clip", "what happens here", "what happened", "what is happening", "what is going on",
    "describe the video", "describe what happens", "tell me what happens",
)  # fmt: skip


def word_narration(rng: random.Random, held_out: bool = False, rough: bool = False) -> str:
    """A wording of "what happens?"; `rough` ones carry typing errors and stray words (training only)."""
    if not held_out and rng.random() < 0.25:
        return rng.choice(_PLAIN)
    text = rng.choice(OPENINGS_HELD_OUT if held_out else _OPENINGS)
    place = rng.choice(_PLACES)
    text = f"{text} {place}".strip()
    if rng.random() < 0.1:
        courtesy = rng.choice(_COURTESIES)
        text = f"{courtesy}, {text}" if rng.random() < 0.6 else f"{text} {courtesy}"
    if rough and rng.random() < 0.25:
        words = text.split()
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), rng.choice(_STRAY_WORDS))
        text = " ".join(words)
    if rough and rng.random() < 0.15:
        text = mistype(text, rng)
    return text


def mistype(text: str, rng: random.Random) -> str:
    """One or two letters dropped, doubled or swapped."""
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(max(1, len(text) - 1))
        choice = rng.randrange(3)
        if choice == 0:
            text = text[:at] + text[at + 1 :]
        elif choice == 1:
            text = text[:at] + text[at] + text[at:]
        else:
            text = text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]
    return text


def dress(text: str, rng: random.Random) -> str:
    """Random case and closing punctuation, as people type."""
    draw = rng.random()
    if draw < 0.45:
        text = text[:1].upper() + text[1:]
    elif draw < 0.5:
        text = text.upper()
    return text + rng.choice(("?", "?", "?", "?", "", "", ".", "??", " ?", "!"))
