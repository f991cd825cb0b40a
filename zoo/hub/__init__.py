"""The Hugging Face Hub: publishing and fetching, cards, licences."""
