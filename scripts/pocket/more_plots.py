"""More plots, in the form that `plots` describes."""

from pocket.plots import Plot

TRUTH = Plot("who tells the truth", "it is always best to tell the truth", (
    ("{hero} was playing in the house.", "{hero} was throwing a ball in {friend}'s house.", "One rainy day, {hero} was running up and down."),
    ("Crash! {friend}'s {colour} {thing} fell down and broke.", "Oh no! {He} bumped into {friend}'s {colour} {thing}, and it broke.",
     "With a loud crash, {friend}'s {colour} {thing} broke."),
    ("{hero} hid the pieces under the rug.", "Quickly, {he} put the pieces into a box.", "\"Nobody saw it,\" {he} thought."),
    ("Soon {friend} the {fkind} came home. \"Where is my {thing}?\"", "\"Do you know where my {thing} is?\" asked {friend} the {fkind}.",
     "{friend} the {fkind} looked around. \"My {thing} is gone!\""),
    ("\"I do not know,\" said {hero}.", "\"Maybe the wind took it,\" said {hero}.", "{hero} said nothing and looked away."),
    ("But {his} tummy felt strange, and {he} could not sleep.", "All day long, {hero} felt bad.", "{hero} could not eat, not even {food}."),
    ("At last {he} said, \"I broke it. I am sorry.\"", "In the end, {he} went to {friend}. \"It was me,\" {he} said.",
     "The next morning, {he} told {friend} everything."),
    ("\"Thank you for telling me,\" said {friend}.", "{friend} was not angry. \"It was brave to tell me,\" {fhe} said.", "\"I am glad that you told me,\" said {friend}."),
    ("They took some glue and fixed the {thing} together.", "Together they made a new one in the {place}.", "{hero} helped to fix it, and {he} felt light again."),
))
BOAT = Plot("who builds a boat", "many hands make hard work easy", (
    ("{hero} dreamed of sailing across the lake.", "{hero} wanted to see what was on the other side of the river.", "\"I will build a boat,\" said {hero} one morning."),
    ("{He} took wood, nails and a {colour} cloth.", "In the {place}, {he} found some old wood.", "{He} drew a plan and began to work."),
    ("But the wood was too heavy for {him}.", "The work was very hard, and {he} was soon tired.", "The boards fell down again and again."),
    ("\"I can not do it alone,\" {he} said.", "{He} sat down and sighed.", "\"This will take a hundred years,\" said {hero}."),
    ("\"I am strong,\" said {friend} the {fkind}. \"Let me help.\"", "{friend} the {fkind} came by. \"What a fine boat! May I help?\"",
     "Then {friend} the {fkind} came with a hammer."),
    ("{hero} held the wood, and {friend} hammered.", "Together they carried, cut and painted.", "{friend} did the heavy work, and {hero} made the sail."),
    ("After three days, the boat was ready.", "In the evening, the boat stood there, all {colour}.", "At the end of the week, it was done."),
    ("They put it on the water, and it did not sink.", "They pushed it into the water. It swam!", "The wind filled the sail, and off they went."),
    ("\"We did it!\" they shouted.", "They sailed all day and ate {food} on the boat.", "They named the boat The {colour} {thing}."),
))
MOON = Plot("who wants to touch the moon", "what we look for is often close by", (
    ("Every night, {hero} looked at the moon.", "{hero} loved the big round moon.", "\"I want to touch the moon,\" said {hero}."),
    ("One night, {he} climbed up a high hill.", "{He} climbed the tallest tree near the {place}.", "{He} put a chair on a table and stood on it."),
    ("But the moon was still far away.", "{He} stretched out {his} arm, but could not reach it.", "It was not high enough."),
    ("\"What are you doing there?\" asked {friend} the {fkind}.", "{friend} the {fkind} saw {him}. \"Be careful!\" called {friend}.",
     "{friend} the {fkind} came along and wondered."),
    ("\"I want to touch the moon,\" said {hero}. \"But it is too far.\"", "\"The moon does not come down to me,\" said {hero} sadly.", "{hero} told {friend} about the moon."),
    ("{friend} thought for a while. \"I have an idea,\" said {friend}.", "{friend} smiled. \"Come with me,\" {fhe} said.", "\"I know a place,\" {friend} said."),
    ("They went to a quiet pond.", "They walked down to the lake.", "{friend} took a bowl and filled it with water."),
    ("There was the moon, shining in the water!", "And in the water, {hero} saw the moon.", "\"Look down,\" said {friend}. The moon was in the water."),
    ("{hero} touched it softly, and it danced.", "{hero} put {his} hand into the water and laughed.", "\"I have touched the moon!\" cried {hero}."),
))
SNOW = Plot("who sees the first snow", "a cold day can warm the heart", (
    ("One morning, everything was white.", "{hero} woke up, and the world was quiet and white.", "In the night, snow had fallen on the {place}."),
    ("{hero} had never seen snow before.", "\"What is this?\" asked {hero}.", "\"Is it sugar?\" {he} wondered."),
    ("{He} put on a {colour} coat and went outside.", "{He} took {his} {colour} {thing} and ran out.", "{He} stepped out, and it was very cold."),
    ("{friend} the {fkind} was already there.", "There {he} met {friend} the {fkind}.", "{friend} the {fkind} threw a snowball. Plop!"),
    ("\"Let us build a snowman,\" said {friend}.", "\"Come, we will make a snowman!\" {friend} said.", "\"Do you want to play with me?\" asked {friend}."),
    ("They rolled a big ball, a middle ball and a small ball.", "They worked until their noses were red.", "They made it as tall as a door."),
    ("They gave it a {colour} {thing} and a carrot for a nose.", "It got two stones for eyes and a {colour} hat.", "\"It needs a name,\" said {hero}."),
    ("Then they went in and ate hot {food}.", "After that, they drank hot milk near the fire.", "When they were cold, {hero} made some tea."),
    ("\"I love snow,\" said {hero}.", "\"I hope it snows again tomorrow,\" said {friend}.", "Through the window, the snowman seemed to smile."),
))
KITE = Plot("whose kite flies away", "asking for help is not a weakness", (
    ("{hero} had a new {colour} kite.", "On a windy day, {hero} flew {his} {colour} kite in the {place}.", "{hero} made a kite from {colour} paper."),
    ("It flew higher and higher.", "It danced in the wind like a bird.", "{He} ran, and the kite went up into the sky."),
    ("But then a strong wind came, and the string broke.", "Suddenly, the wind pulled it out of {his} hands.", "Then, with a snap, the string broke."),
    ("The kite landed in the top of a tall tree.", "It got stuck in a tree, high above the ground.", "It fell on the roof of the old mill."),
    ("{hero} jumped, but {he} could not reach it.", "{He} tried to climb up, but slid down.", "{He} threw a stick, but it did not help."),
    ("\"I do not need help,\" {he} said, but soon {he} was tired.", "{He} did not want to ask anybody. But it did not work.", "At last, {he} began to cry."),
    ("{friend} the {fkind} was watching. \"Just ask me,\" said {friend}.", "\"Hello,\" said {friend} the {fkind}. \"Is that your kite?\"",
     "Then {he} saw {friend} the {fkind}."),
    ("\"Can you please help me?\" asked {hero}.", "\"Yes, please help me,\" said {hero}.", "\"I can not do it alone,\" said {hero}. \"Will you help me?\""),
    ("In a moment, {friend} brought the kite down.", "{friend} went up and came back with the kite.", "{hero} climbed on {friend}'s back and got the kite."),
))
NEW = Plot("who is new in town", "a kind word can start a friendship", (
    ("{hero} was new in town.", "{hero} had just moved to a house near the {place}.", "It was {hero}'s first day in the new town."),
    ("{He} did not know anybody.", "Everybody else had a friend already.", "{He} sat alone and watched the others play."),
    ("\"Nobody wants to play with me,\" {he} thought.", "{He} was too shy to say hello.", "{He} missed {his} old home."),
    ("Then {he} saw {friend} the {fkind}, who sat alone too.", "On the other side sat {friend} the {fkind}, also alone.", "Not far away was {friend} the {fkind}, with nobody to play with."),
    ("{hero} took a deep breath and went over.", "{hero} counted to three and walked over.", "\"I will be brave,\" {hero} thought."),
    ("\"Hello, I am {hero}. Do you like {food}?\"", "\"Hi,\" {he} said. \"Do you want some of my {food}?\"", "\"Hello! Shall we play with my {thing}?\""),
    ("{friend} smiled. \"Yes, I would love to!\"", "\"Yes, please!\" said {friend}.", "{friend}'s face lit up. \"Oh yes!\""),
    ("They played in the {place} all afternoon.", "They talked and laughed until it was dark.", "They built a castle and a long road."),
    ("\"Will you come again tomorrow?\" asked {friend}. \"Yes!\" said {hero}.", "From that day on, they met every day.", "Now the new town felt like home."),
))
MAP = Plot("who finds an old map", "the real treasure is the time with friends", (
    ("{hero} found an old map in a {thing}.", "In an old {colour} book, {hero} found a map.", "One day, an old map fell down from the shelf."),
    ("There was a red cross on it.", "It showed the way to a treasure.", "\"Treasure!\" said the big letters."),
    ("{hero} showed it to {friend} the {fkind}.", "{He} ran to {friend} the {fkind}. \"Look what I found!\"", "\"Will you come with me?\" {he} asked {friend} the {fkind}."),
    ("They packed some {food} and went off.", "They left early in the morning.", "\"Let us go at once,\" said {friend}."),
    ("They walked over a hill and through the {place}.", "They crossed a river on an old log.", "They went past the {place} and up a long path."),
    ("It was a long way, so they sang songs.", "When {hero} was tired, {friend} told a joke.", "On the way, they helped an old snail across the road."),
    ("At last, they came to the cross and began to dig.", "Under a big tree, they found the place.", "\"Here it is!\" cried {friend}, and they dug a deep hole."),
    ("There was a box. In the box was just a {colour} {thing}.", "They found a box, but it was empty.", "They found only an old {thing}."),
    ("They looked at each other and laughed.", "\"It was a wonderful day,\" said {hero}.", "\"Let us look for treasure again tomorrow,\" said {friend}."),
))
