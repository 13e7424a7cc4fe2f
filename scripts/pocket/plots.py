"""The plots of the stories: each a title, a moral and a row of moments, each told in one of several ways.

Places to fill: {hero} {kind} {he} {him} {his} {He} {friend} {fkind} {fhe} {place} {thing} {colour} {food}.
The friend is introduced as "{friend} the {fkind}" once, in a moment that every telling holds.
"""

from dataclasses import dataclass

Moment = tuple[str, ...]
"""Ways to tell one moment of a story."""


@dataclass(frozen=True)
class Plot:
    """`title` completes "a story about {hero} the {kind} ..."; `moral` completes "{hero} learned that ..."."""

    title: str
    moral: str
    moments: tuple[Moment, ...]


LOST = Plot("who loses a {colour} {thing}", "friends help each other", (
    ("{hero} had a {colour} {thing}. {He} took it everywhere.",
     "{hero} loved {his} {colour} {thing} more than anything.",
     "The best thing that {hero} had was a {colour} {thing}."),
    ("One morning, the {thing} was gone.", "One day, {he} could not find the {thing}.",
     "But one day the {thing} was not there."),
    ("{He} looked under the bed and behind the door, but it was not there.",
     "{He} looked here and there, but found nothing.", "{He} searched the whole house. No {thing}!"),
    ("{hero} sat down and cried.", "A big tear ran down {his} face.", "{hero} felt very sad."),
    ("{friend} the {fkind} came by. \"Why are you sad?\" asked {friend}.",
     "Then {friend} the {fkind} heard {him}. \"What is wrong?\" {fhe} asked.",
     "Just then, {friend} the {fkind} walked past. \"Can I help you?\" asked {friend}."),
    ("\"I lost my {colour} {thing},\" said {hero}.", "\"My {thing} is gone,\" said {hero} in a small voice.",
     "\"I can not find my {thing},\" {hero} said."),
    ("\"Let us look together,\" said {friend}. They looked in the {place}.",
     "\"Come, we will find it,\" said {friend}. They went to the {place}.",
     "\"Two see more than one,\" said {friend}, and they walked to the {place}."),
    ("There it was, under a pile of leaves!", "And there, behind a big stone, lay the {thing}!",
     "Something {colour} was shining in the grass. It was the {thing}!"),
    ("\"Thank you!\" cried {hero} and gave {friend} a big hug.",
     "{hero} jumped with joy. \"Thank you, {friend}!\"",
     "\"You are a good friend,\" said {hero} with a smile."),
))
SHARE = Plot("who learns to share", "sharing makes everything taste better", (
    ("{hero} had a big bag of {food}.", "One day, {hero} got a basket full of {food}.",
     "{hero} loved {food}, and today {he} had a lot."),
    ("{He} wanted to eat it all alone.", "\"It is all mine,\" {he} said.",
     "{He} hid it so that nobody could see it."),
    ("{friend} the {fkind} came along. {friend} was very hungry.",
     "Then {friend} the {fkind} came by with an empty tummy.",
     "Soon {friend} the {fkind} sat down beside {him}."),
    ("\"May I have some {food}?\" asked {friend}.", "\"Can I have a little bit?\" {friend} asked.",
     "\"That smells so good,\" said {friend}."),
    ("\"No,\" said {hero}, and turned away.", "{hero} shook {his} head. \"No, I want it all.\"",
     "But {hero} did not want to give any away."),
    ("{friend} walked away with a sad face.", "{friend} said nothing and went away slowly.",
     "{friend} looked down and left."),
    ("{hero} took a bite, but it did not taste good.", "Now {hero} was alone, and the {food} had no taste.",
     "{hero} ate and ate, but {he} felt lonely."),
    ("{He} ran after {friend}. \"Wait! Let us share!\"", "\"Come back!\" {he} called. \"You can have half.\"",
     "So {he} ran and said, \"I am sorry. Please eat with me.\""),
    ("They sat in the {place} and ate together.", "They ate together and laughed until the sun went down.",
     "Together they had the best meal in the {place}."),
))
DARK = Plot("who is afraid of the dark", "there is no need to be afraid when a friend is near", (
    ("{hero} was afraid of the dark.", "Every night, {hero} was scared when the lamp went out.",
     "{hero} did not like the night at all."),
    ("One night, {he} heard a strange sound near the {place}.",
     "One evening, {he} had to walk home past the {place}.", "Then came a night without a moon."),
    ("\"Who is there?\" {he} whispered.", "{His} heart went boom, boom, boom.",
     "{He} held {his} {thing} very tight."),
    ("Two eyes were shining in the dark!", "Something moved in the bushes!",
     "A long shadow came nearer and nearer!"),
    ("It was only {friend} the {fkind}.", "But it was just {friend} the {fkind}.",
     "Out came {friend} the {fkind}, with a kind smile."),
    ("\"Do not be afraid,\" said {friend}. \"Look up!\"",
     "\"The dark is not bad,\" said {friend}. \"Look at the sky.\"",
     "\"I like the night,\" said {friend}. \"Come and see.\""),
    ("{hero} looked up and saw a thousand stars.", "The sky was full of little lights.",
     "{hero} had never seen so many stars."),
    ("\"How beautiful!\" said {hero}.", "\"Oh!\" said {hero}. \"They are so pretty.\"",
     "{hero} forgot {his} fear and smiled."),
    ("They walked home together under the stars.", "They sat and counted the stars until {hero} fell asleep.",
     "From then on, {hero} said good night to the stars every evening."),
))
SWIM = Plot("who learns to swim", "you can do hard things if you try again", (
    ("All the others could swim, but {hero} could not.", "{hero} lived near a lake, but {he} could not swim.",
     "{hero} wanted to swim more than anything."),
    ("{He} stood at the water and looked at the waves.", "{He} put one foot into the water. It was cold!",
     "Every day {he} sat at the water and watched."),
    ("\"I will never learn it,\" {he} said.", "\"It is too hard for me,\" {he} said.",
     "\"The water is too deep,\" said {hero}."),
    ("{friend} the {fkind} heard that. \"I can teach you,\" said {friend}.",
     "\"Come, I will show you,\" said {friend} the {fkind}.",
     "{friend} the {fkind} swam up to {him}. \"Shall we try together?\""),
    ("On the first day, {hero} got water in {his} nose.", "The first time, {he} went under like a stone.",
     "At first, {he} splashed and coughed."),
    ("\"Try again,\" said {friend}.", "\"That was a good start,\" said {friend}. \"Once more!\"",
     "\"Do not give up,\" {friend} said with a smile."),
    ("So {hero} tried again and again.", "The next day {he} tried once more, and the day after that too.",
     "{hero} took a deep breath and tried again."),
    ("And then, all at once, {he} could swim!", "On the fifth day, {he} swam all the way to the other side.",
     "At last {he} moved {his} arms and legs, and it worked!"),
    ("\"Look at me!\" {he} shouted, and {friend} cheered.",
     "\"I am swimming!\" cried {hero}. {friend} clapped.", "{friend} was so proud of {him}."),
))
SEED = Plot("who plants a seed", "good things need time", (
    ("{hero} found a small seed in the {place}.", "One spring day, {hero} got a tiny seed as a gift.",
     "There was a little seed in {his} {thing}."),
    ("{He} put it into the ground and gave it water.",
     "{He} dug a hole, put the seed in it and covered it with soil.", "{He} planted it in a sunny corner."),
    ("The next day, {he} ran to look. There was nothing.", "{He} waited one day, but nothing happened.",
     "{He} looked every hour, but saw only soil."),
    ("\"My seed is broken,\" {he} said.", "\"It does not want to grow,\" said {hero}.",
     "\"Why does it not grow?\" {he} asked."),
    ("{friend} the {fkind} laughed. \"You must wait,\" said {friend}.",
     "\"Seeds are slow,\" said {friend} the {fkind}. \"Give it time.\"",
     "\"Be patient,\" said {friend} the {fkind}, who was very wise."),
    ("So {hero} gave it water every morning and sang to it.", "Every day, {hero} brought water and waited.",
     "{hero} waited while the rain fell and the sun shone."),
    ("After many days, a green leaf came out.", "Then one morning, there was something small and green.",
     "At last, a little plant looked out of the ground."),
    ("It grew and grew until it was a big {colour} flower.",
     "Soon it was taller than {hero}, with {colour} flowers all over.",
     "In summer it had the most beautiful {colour} flowers."),
    ("\"It was worth the wait,\" said {hero}.", "{hero} and {friend} danced around it.",
     "{hero} gave the first flower to {friend}."),
))
RACE = Plot("who runs in a race", "being a good friend is better than winning", (
    ("There was a big race at the {place}.", "One day, all the animals met at the {place} for a race.",
     "Every summer there was a race to the {place}."),
    ("{hero} wanted to win the first prize, a {colour} {thing}.", "\"I will win,\" said {hero}.",
     "{hero} had practised for many weeks."),
    ("One, two, three, go! {hero} ran as fast as {he} could.",
     "Ready, steady, go! {hero} was the fastest of all.", "The bell rang, and {hero} ran like the wind."),
    ("Soon {he} was in front.", "The others were far behind.", "Only one runner was near: {his} friend."),
    ("Then {friend} the {fkind} fell over a stone.", "But then {friend} the {fkind} fell and hurt a leg.",
     "Suddenly {friend} the {fkind} cried out and fell down."),
    ("{hero} looked at the finish line and then at {friend}.", "{hero} stopped. What should {he} do?",
     "The finish was so near, but {friend} needed help."),
    ("{He} turned back and helped {friend} up.", "{He} ran back. \"Hold on to me,\" {he} said.",
     "\"I will help you,\" said {hero}, and went back."),
    ("They walked to the finish line together, and they were the last.",
     "Side by side they came in, the last of all.", "Somebody else won the race, but nobody minded."),
    ("Everybody cheered for {hero}.", "\"You are the real winner,\" said {friend}.",
     "All the others clapped for the two friends."),
))
STORM = Plot("who meets a storm", "it is good to open the door to others", (
    ("One evening, dark clouds came over the {place}.", "It was a windy day, and the sky turned black.",
     "A great storm came in the night."),
    ("{hero} shut the window and lit a lamp.", "{hero} was safe and warm in {his} little house.",
     "{hero} made tea and sat near the fire."),
    ("Then there was a knock at the door.", "Knock, knock! Somebody was outside.",
     "Suddenly {he} heard a weak voice outside."),
    ("It was {friend} the {fkind}, wet and cold.", "There stood {friend} the {fkind}, dripping with rain.",
     "{friend} the {fkind} stood in the rain and shook."),
    ("\"The wind took my house,\" said {friend}.", "\"Water came into my home,\" {friend} said.",
     "\"I have no place to sleep,\" said {friend}."),
    ("{hero} did not think long. \"Come in!\" {he} said.", "\"Quick, come in and get warm,\" said {hero}.",
     "\"You can stay with me,\" said {hero} at once."),
    ("They ate {food} and told each other stories.", "{hero} gave {friend} a blanket and some {food}.",
     "They shared the {food} and listened to the rain."),
    ("In the morning, the sun was shining again.", "The next day, the storm was over.",
     "When they woke up, the sky was blue."),
    ("Together they built a new house for {friend}.", "\"I will never forget this,\" said {friend}.",
     "{hero} helped {friend} to fix the house, and they became best friends."),
))
BIRTHDAY = Plot("who has a birthday", "the best gift is a friend", (
    ("It was {hero}'s birthday.", "Today was a special day: {hero} had a birthday.",
     "{hero} woke up early, because it was {his} birthday."),
    ("But nobody said a word about it.", "{He} waited for the others, but nobody came.",
     "{He} looked out of the window, but the street was empty."),
    ("\"They all forgot me,\" {he} thought.", "\"Does nobody remember?\" {he} asked {himself}.",
     "{hero} felt a little lonely."),
    ("{He} went for a walk to the {place}.", "Sadly, {he} walked to the {place}.",
     "So {he} took {his} {thing} and went to the {place}."),
    ("There was {friend} the {fkind}, waiting for {him}.", "On the way {he} met {friend} the {fkind}.",
     "\"Come with me,\" said {friend} the {fkind}."),
    ("\"Close your eyes,\" said {friend}.", "\"I have to show you something,\" said {friend}.",
     "\"Do not look yet!\" {friend} laughed."),
    ("\"Surprise!\" shouted many voices.", "When {hero} looked, all the friends were there.",
     "Everybody jumped out and sang a song."),
    ("There were {colour} balloons and a plate of {food}.",
     "There was a table with {food} and a {colour} cake.", "They gave {him} a {colour} {thing}."),
    ("\"This is the best day of my life,\" said {hero}.", "{hero} laughed and cried at the same time.",
     "They danced and played until the evening."),
))
