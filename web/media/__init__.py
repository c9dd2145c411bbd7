"""Live video over aiortc: what it takes to keep a picture fresh, with nothing of the library forked or replaced.

    jitter      packets become encoded frames, each released on its marker bit        (receiving)
    nack        lost packets are asked for again, late ones are not
    decode      in order, in a thread; only the newest picture goes on
    colour      RGB to and from YUV, by the tags
    extensions  what a browser tells of its colours beside the picture
    estimate    how much the page may send: full links are told from busy machines
    rate        bits a second, by the receiver's estimate and by its loss             (sending)
    encode      H.264 and VP8 for live pictures
    sound       Opus packets, held back in step with the picture
    listening   an audio receiver that hands them on undecoded
    handshake   what is lost while a connection begins, and of its messages, is sent again soon
    encodings   one encoder for all who look, and others for those whose line carries less
    receiver, sender, connection      aiortc's classes with these parts put in
    library     which aiortc this was written for
    pools       the threads for codecs and conversions

The subclasses reach into private names of aiortc, through `library.inner` alone. `connection.LiveConnection` refuses
an aiortc of another version, and tests/test_media.py fails when the library's sources change.
"""
