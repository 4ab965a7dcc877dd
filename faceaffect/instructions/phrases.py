"""Phrasings of questions and answers. The first of each list is the one that evaluation asks.

``{media}`` becomes "image" or "video", ``{classes}`` the class list, ``{aus}`` the AUs asked for.
"""

EXPRESSION_QUESTIONS = (
    "Which facial expression does the person in the {media} show? Choose one of {{{classes}}}.",
    "What is the facial expression of the person in this {media}? Options: {{{classes}}}.",
    "Name the expression of the face in the {media}, one of {{{classes}}}.",
    "Look at the face in the {media}. Which of {{{classes}}} fits best?",
    "Classify the facial expression in this {media} as one of {{{classes}}}.",
    "How does the person in the {media} feel? Judge by the face: {{{classes}}}.",
    "From {{{classes}}}, pick the expression shown in the {media}.",
    "Which emotion can be seen on the face in this {media}: {{{classes}}}?",
)
AU_QUESTIONS = (
    "Which action units are active in the {media}? Consider {aus}.",
    "Which of the action units {aus} does the face in this {media} show?",
    "List the facial action units that are active in the {media}, out of {aus}.",
    "Name every active action unit of {aus} in this {media}.",
    "Look at the facial muscles in the {media}. Which of {aus} are active?",
    "Code the face in this {media} with FACS, using {aus}.",
)
VA_QUESTIONS = (
    "How pleasant and how aroused does the person in the {media} look, from -1 to 1?",
    "Rate valence and arousal of the face in this {media}, each from -1 to 1.",
    "What are the valence and the arousal of the person in the {media}, between -1 and 1?",
    "Estimate valence and arousal, from -1 to 1, for the face in this {media}.",
)
CONVERSATION_QUESTIONS = (
    "How does the person in the {media} feel, and how can you tell?",
    "What does this face tell you about the person's state?",
    "Describe the emotion in the {media} and the facial evidence for it.",
    "What emotion is visible in this {media}? Explain by the face.",
    "Read the face in the {media}. What is going on in the person?",
)
FOLLOW_UPS = (
    (
        "Why does the person feel this way?",
        "The {media} shows the face only; the cause is not visible.",
    ),
    ("What happened before?", "That can not be told from the {media}."),
    ("Are you certain about the cause?", "No. The face shows the emotion, not what caused it."),
)
DESCRIPTION_QUESTIONS = (
    "Describe the face in the {media}.",
    "What can be seen on this face?",
    "Give a short description of the person's face in the {media}.",
    "Describe what the facial muscles do in this {media}.",
)
SIGN_QUESTIONS = (
    "Which signs of facial muscles at work does the face in the {media} show?",
    "Which visible signs are there on the face in this {media}?",
    "Go through the face in the {media} sign by sign: what do you see?",
    *DESCRIPTION_QUESTIONS,
)
"""What asks for the signs of action units without naming any; the words are in ``AU_SIGNS``."""
NEUTRAL_EVIDENCE = ("The facial muscles are at rest.", "No part of the face is tensed or raised.")
CONCLUSIONS = (
    "The person shows {expression}.",
    "The expression is {expression}.",
    "This face shows {expression}.",
)
AU_SIGNS: dict[int, tuple[str, ...]] = {
    1: ("the inner brows are raised", "the inner ends of the brows are lifted"),
    2: ("the outer brows are raised", "the outer ends of the brows are lifted"),
    4: ("the brows are lowered and drawn together", "there is a furrow between the brows"),
    5: ("the upper lids are raised", "the eyes are opened wide"),
    6: ("the cheeks are raised", "there are wrinkles beside the eyes"),
    7: ("the lids are tightened", "the eyes are narrowed"),
    9: ("the nose is wrinkled", "there are wrinkles along the nose"),
    10: ("the upper lip is raised", "the upper lip is pulled up"),
    12: ("the lip corners are pulled up", "the mouth corners are drawn back and up"),
    14: ("the lip corners are tightened into dimples", "there are dimples beside the mouth"),
    15: ("the lip corners are pulled down", "the mouth corners point down"),
    17: ("the chin is raised", "the chin is pushed up"),
    20: ("the lips are stretched sideways", "the mouth is stretched"),
    23: ("the lips are tightened", "the lips are narrow and tight"),
    24: ("the lips are pressed together", "the mouth is pressed shut"),
    25: ("the lips are parted", "the mouth is slightly open"),
    26: ("the jaw is dropped", "the mouth hangs open"),
    43: ("the eyes are closed", "the lids are shut"),
}
"""What an active AU looks like, in words that a person would use."""
