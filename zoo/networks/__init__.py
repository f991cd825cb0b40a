"""Networks of our own, and those of timm, peft, mmsegmentation and detectron2: each library behind one file."""
